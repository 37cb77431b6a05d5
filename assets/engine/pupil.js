// One who learns a word and paints with it: all of the engine, put together from the parts a page has loaded.

import { Chance } from "./chance.js";
import { GaussNewton } from "./curvature.js";
import { rge } from "./estimators.js";
import { invert } from "./invert.js";
import { Model } from "./model.js";
import { DenoisingLoss } from "./objective.js";
import { ZOAdam, ZOSGD } from "./optim.js";
import { paint } from "./paint.js";
import { SubspaceGradient } from "./subspace.js";
import { readTensors, writeTensors } from "./tensors.js";
import { PartialUniform } from "./timesteps.js";
import { Tokenizer } from "./tokenizer.js";

export class Pupil {
  // parts: each a Uint8Array: facts, tokenizer, table, settings, nouns, lessons, noise, encode, decode.
  static async open(ort, parts) {
    const told = (name) => JSON.parse(new TextDecoder().decode(parts[name]));
    const pupil = new Pupil();
    const [facts, settings, lessons, nouns] = ["facts", "settings", "lessons", "nouns"].map(told);
    const rows = new Float32Array(bytes(settings.directions.rows).buffer);
    settings.directions.rows = Array.from({ length: rows.length / facts.width }, (_, i) =>
      Float64Array.from(rows.subarray(i * facts.width, (i + 1) * facts.width)));
    Object.assign(pupil, { facts, settings, lessons, nouns, tokenizer: new Tokenizer(told("tokenizer")) });
    pupil.table = readTensors(parts.table).tensors.table.data;
    pupil.model = await Model.load(ort, facts, parts);
    pupil.study(lessons[0]);
    return pupil;
  }

  // A lesson: { word, noun, captions, pictures }. The word starts from the noun; what was learned before is given up.
  study(lesson) {
    if (!(lesson.noun in this.nouns)) throw new RangeError(`the model has no single word for “${lesson.noun}”`);
    this.tokenizer.added = {};
    this.tokenizer.add(lesson.word, this.facts.rows); // ids from the size of the model's own vocabulary on are ours
    this.lesson = lesson;
    this.initial = this.known(lesson.noun);
    this.word = this.initial;
  }

  // The vector of a noun.
  known(noun) {
    const { width } = this.facts;
    return Float64Array.from(this.table.subarray(this.nouns[noun] * width, (this.nouns[noun] + 1) * width));
  }

  // Nouns by how well each explains the lesson's pictures, the best first: by the loss on a few draws, forwards only.
  // All are tried on two draws, the better third on four more.
  async propose({ seed = 0, step = () => {} } = {}) {
    const [objective, chance] = [await this.objective(), new Chance(seed)];
    let done = 0;
    let left = Object.keys(this.nouns).map((noun) => ({ noun, word: this.known(noun), sum: 0 }));
    for (let draws = 0; draws < 6; draws++) {
      const draw = objective.draw(chance);
      for (let i = 0; i < left.length; i += 16) {
        const some = left.slice(i, i + 16);
        const losses = await objective.losses(some.map(({ word }) => word), draw);
        losses.forEach((loss, j) => { some[j].sum += loss; });
        await step((done += some.length) / Object.keys(this.nouns).length / 3.4);
      }
      left.sort((a, b) => a.sum - b.sum);
      if (draws === 1) left = left.slice(0, Math.ceil(left.length / 3));
    }
    return left.map(({ noun }) => noun);
  }

  // What a lesson's word is judged by: its pictures, each under its caption.
  async objective(lesson = this.lesson) {
    const { facts, settings } = this;
    const knows = this.tokenizer.knowing(lesson.word, facts.rows);
    const ids = lesson.captions.map((caption) => knows.ids(caption.replaceAll("{}", lesson.word)));
    const latents = await this.model.encode(lesson.pictures.map((text) => planes(text, facts.side)));
    return new DenoisingLoss(this.model, ids, latents, new PartialUniform(settings.low, settings.high));
  }

  // A run, as `invert` yields it, after which the word is what it has become.
  async *learn(how) {
    for await (const step of this.run(this.lesson, how)) {
      this.word = step.theta;
      yield step;
    }
  }

  // A run of any lesson, of which nothing is kept. method: "zoodip", or "gauss-newton", which needs fewer passes.
  async *run(lesson, { method = "gauss-newton", steps, seed = 0, chance = new Chance(seed) }) {
    const { mu, lr, steps: usual, directions: { rows, length } } = this.settings;
    const how = {
      zoodip: () => ({
        steps: steps ?? usual, n: 2, mu, estimator: rge, optimizer: new ZOAdam({ lr }), subspace: new SubspaceGradient(),
      }),
      "gauss-newton": () => ({
        steps: steps ?? 100, n: 4, mu, estimator: new GaussNewton({ rows, length }), optimizer: new ZOSGD({ lr: 1 }),
      }),
    }[method];
    if (!how) throw new RangeError(`no method ${method}; there are zoodip and gauss-newton`);
    yield* invert(await this.objective(lesson), this.known(lesson.noun), { ...how(), chance });
  }

  // The word as the file that diffusers and zoti read, learned_embeds.safetensors.
  file() {
    const { word, noun } = this.lesson;
    return writeTensors({ [word]: { shape: [1, this.word.length], data: this.word } }, { word, noun });
  }

  // Such a file, read back: its word and, where the file says so, the noun it was learned from.
  read(content) {
    const { tensors, metadata } = readTensors(content);
    const found = Object.entries(tensors).filter(([, { data }]) => data.length === this.facts.width);
    if (found.length !== 1) {
      throw new RangeError(`this file has no word for this model: one vector of ${this.facts.width} numbers, named after its word`);
    }
    const [word, { data }] = found[0];
    if (!/^<[^<>\s]+>$/.test(word)) throw new RangeError(`the word in this file is “${word}”; here a word stands in <brackets>`);
    if (!data.every(Number.isFinite)) throw new RangeError(`${word} has numbers that are not finite`);
    const noun = metadata.noun in this.nouns ? metadata.noun : this.lesson.noun;
    this.study({ ...this.lesson, word, noun });
    this.word = Float64Array.from(data);
    return this.lesson;
  }

  // Pictures of prompts, in which {} or the word itself stands for it: pixels as bytes of RGBA, side by side x 4.
  async paint(prompts, { seed = 0, word = this.word, ...how } = {}) {
    const chance = new Chance(seed);
    const noise = chance.normals(this.model.size);
    const ids = prompts.map((prompt) => this.tokenizer.ids(prompt.replaceAll("{}", this.lesson.word)));
    const painted = await paint(this.model, word, ids, this.tokenizer.ids(""), ids.map(() => noise), how);
    return painted.map(pixels);
  }
}

const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

export const letters = (content) => btoa(Array.from(content, (byte) => String.fromCharCode(byte)).join(""));

// Bytes of RGB in base64, as the model sees them: three planes in [-1, 1].
export function planes(text, side) {
  const [rgb, area] = [bytes(text), side * side];
  if (rgb.length !== 3 * area) throw new RangeError(`this picture has ${rgb.length} bytes, not ${3 * area}`);
  return Float32Array.from({ length: 3 * area }, (_, i) => rgb[3 * (i % area) + Math.floor(i / area)] / 127.5 - 1);
}

// Three planes in [0, 1], as bytes of RGBA.
export function pixels(planes) {
  const area = planes.length / 3;
  return Uint8ClampedArray.from({ length: 4 * area }, (_, i) => (i % 4 < 3 ? planes[(i % 4) * area + (i >> 2)] * 255 : 255));
}
