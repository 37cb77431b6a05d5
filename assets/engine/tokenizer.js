// A prompt as numbers: CLIP's byte-pair encoding (Sennrich, Haddow & Birch 2016; Radford et al. 2021), as tokenizers
// does it for the library.

// Bytes as letters that can be seen (GPT-2's): those that are, stand for themselves, the others count on from 256.
const LETTERS = (() => {
  const seen = (byte) => (byte > 32 && byte < 127) || (byte > 160 && byte < 173) || byte > 173;
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(seen(byte) ? byte : next++));
})();
const WORDS = /<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\p{White_Space}\p{L}\p{N}]+/gu;
const PIECES = /'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}+|[^\p{L}\p{N}]+/gu; // GPT-2's, which the library cuts by as well

const escaped = (word) => word.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");

export class Tokenizer {
  // vocab: { piece: id }; merges: pairs of pieces, the first to be joined first; special: { piece: id }, which in a
  // prompt are read as they stand; start, end, pad, unknown: ids; length: how many ids every prompt has.
  constructor({ vocab, merges, special, start, end, pad, unknown, length }) {
    Object.assign(this, { vocab, special, start, end, pad, unknown, length });
    this.ranks = new Map(merges.map(([a, b], rank) => [`${a} ${b}`, rank]));
    this.added = {};
    this.known = new Map();
  }

  // A word of our own, as one id. It is found wherever it stands, in capitals or not.
  add(word, id) {
    if (!word.trim()) throw new RangeError("a word has at least one letter");
    this.added[tidy(word)] = id;
  }

  // The same, with another word in the place of those that were added.
  knowing(word, id) {
    const twin = Object.assign(Object.create(Tokenizer.prototype), this, { added: {} });
    twin.add(word, id);
    return twin;
  }

  // Raises RangeError for a prompt that is too long: cut off, it would lose what was meant.
  ids(prompt) {
    const found = split(prompt, this.special).flatMap(([text, id]) => (id === undefined ? this.plain(text) : [id]));
    const room = this.length - 2;
    if (found.length > room) {
      throw new RangeError(`“${prompt}” has ${found.length} tokens, and this model reads ${room}; say it shorter`);
    }
    const told = [this.start, ...found, this.end];
    return [...told, ...Array(this.length - told.length).fill(this.pad)];
  }

  plain(text) {
    return split(tidy(text), this.added).flatMap(([part, id]) => {
      if (id !== undefined) return [id];
      const pieces = (part.match(WORDS) ?? []).flatMap((word) => word.match(PIECES));
      return pieces.flatMap((piece) => this.joined(piece));
    });
  }

  // One word: its bytes, of which the pair that ranks first is joined until none has a rank.
  joined(word) {
    if (this.known.has(word)) return this.known.get(word);
    let parts = Array.from(new TextEncoder().encode(word), (byte) => LETTERS[byte]);
    parts[parts.length - 1] += "</w>";
    for (;;) {
      let [best, place] = [Infinity, -1];
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = this.ranks.get(`${parts[i]} ${parts[i + 1]}`) ?? Infinity;
        if (rank < best) [best, place] = [rank, i];
      }
      if (place < 0) break;
      parts.splice(place, 2, parts[place] + parts[place + 1]);
    }
    const ids = parts.map((part) => this.vocab[part] ?? this.unknown);
    this.known.set(word, ids);
    return ids;
  }
}

// Letter by letter, so that a sigma at a word's end is one like any other.
const tidy = (text) =>
  Array.from(text.normalize("NFC").replace(/\p{White_Space}+/gu, " "), (letter) => letter.toLowerCase()).join("");

// A text cut at words that are ids: pairs of a part and its id, or undefined. Of two that fit, the longer.
function split(text, words) {
  const names = Object.keys(words).sort((a, b) => b.length - a.length);
  if (!names.length) return [[text, undefined]];
  const cut = text.split(new RegExp(`(${names.map(escaped).join("|")})`, "u"));
  return cut.map((part, i) => [part, i % 2 ? words[part] : undefined]);
}
