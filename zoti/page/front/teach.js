// The page learns a word itself: its reader's own browser runs the model, forwards only. An anywidget front-end module.
// state: steps, how many each way of learning takes. Nothing is loaded before the reader asks, and nothing is ever sent.

const WAYS = { zoodip: "ZOODiP, as in the paper", "gauss-newton": "Gauss-Newton, in a sixth of the passes" };
const OWN = { emoji: "an emoji of your system", drawing: "a drawing", picture: "a picture" };
const PLACES = ["in the ocean", "on the beach", "on the grass", "on pink fabric"]; // of which it paints one not shown
const PROMPT = "a purple {} on the beach";
const LOOKS = 10; // how often it paints while it learns

// ---- The panel ---------------------------------------------------------------------------------------------------------------

const options = (names) => Object.entries(names).map(([value, name]) => `<option value="${value}">${name}</option>`).join("");

const panel = (subjects) => `
  <div class="zoti-choose">
    <label>Teach it <select class="zoti-what"><optgroup label="from this book">${options(subjects)}</optgroup>
      <optgroup label="your own">${options(OWN)}</optgroup></select></label>
    <label>by <select class="zoti-way">${options(WAYS)}</select></label>
    <label class="zoti-from" hidden>starting from <select class="zoti-noun"></select></label></div>
  <div class="zoti-own" hidden><canvas class="zoti-thing"></canvas>
    <div data-own="emoji"><label>Type it, or paste it <input type="text" class="zoti-emoji" value="🦩" autocomplete="off"></label></div>
    <div data-own="picture"><label>Choose it, or drop it here <input type="file" class="zoti-file" accept="image/*"></label>
      <label>How much of its ground to take away <input type="range" class="zoti-near" min="0" max="128" value="32"></label></div>
    <div data-own="drawing picture"><label>Pen <input type="range" class="zoti-pen" min="4" max="64" value="28"></label>
      <label>It <select class="zoti-does"><option value="draws">draws</option><option value="rubs">rubs out</option></select></label>
      <label>in <input type="color" class="zoti-colour" value="#c2410c"></label>
      <button type="button" class="zoti-undo">Undo</button> <button type="button" class="zoti-wipe">Wipe</button></div></div>
  <div class="zoti-hands"><button type="button" class="zoti-go"></button>
    <button type="button" class="zoti-stop" hidden>Stop</button></div>
  <progress max="1" value="0" aria-label="how far it is" hidden></progress>
  <p class="zoti-told"></p><p class="zoti-said" role="status"></p>
  <div class="zoti-shown" hidden></div>
  <div class="zoti-panels" hidden>
    <figure><canvas role="img" class="zoti-before"></canvas><figcaption></figcaption></figure>
    <figure><canvas role="img" class="zoti-after"></canvas><figcaption></figcaption></figure>
  </div>
  <form class="zoti-write" hidden><label>Write with the new word <input type="text" autocomplete="off" spellcheck="false"></label> <button>Paint</button></form>
  <div class="zoti-take"><button type="button" class="zoti-word" hidden>Take the word away</button>
    <button type="button" class="zoti-picture" hidden>Take the pictures</button>
    <label class="zoti-back">Bring a word back <input type="file" accept=".safetensors"></label></div>`;

const count = (n) => n.toLocaleString("en");

function show(canvas, pixels, side, words) {
  Object.assign(canvas, { width: side, height: side });
  canvas.setAttribute("aria-label", words);
  canvas.getContext("2d").putImageData(new ImageData(pixels, side, side), 0, 0);
  canvas.nextElementSibling.textContent = words;
}

// Bytes of RGB in base64, as a canvas has them.
function opaque(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return Uint8ClampedArray.from({ length: (bytes.length * 4) / 3 }, (_, i) => (i % 4 < 3 ? bytes[3 * (i >> 2) + (i % 4)] : 255));
}

async function render({ model, el }) {
  const root = document.createElement("div");
  root.className = "zoti-teach";
  el.append(root);
  if (!window.zotiLoad) {
    root.textContent = "In the built book, this page learns the word itself; a notebook has zoti for it.";
    return;
  }
  const { steps, subjects } = model.get("state");
  const [{ SIZE, cutOut, drawing, emoji, picture, placed }, { engine, Stopped }] = await Promise.all(
    ["thing", "engine"].map(window.zotiLoad));
  root.innerHTML = panel(subjects);
  const part = (selector) => root.querySelector(selector);
  const [what, way, from, noun, own, sheet, go, stop, bar, shown, panels, form, line, back, file, near] = [
    "what", "way", "from", "noun", "own", "thing", "go", "stop", "bar", "shown", "panels", "write", "line", "back", "file", "near",
  ].map((name) => part({ bar: "progress", line: ".zoti-write input", back: ".zoti-back input" }[name] ?? `.zoti-${name}`));
  let [pupil, facts, lesson] = [null, null, null]; // lesson: what it is learning, null before
  let [halt, begun, chosen] = [() => {}, false, null]; // begun: it was stopped while it learned. chosen: a picture, uncut

  // What is seen by all, and what is said to those who listen: not every step.
  const tell = (words, aloud = true) => {
    part(".zoti-told").textContent = words;
    if (aloud) part(".zoti-said").textContent = words;
  };
  const isOwn = () => what.value in OWN;
  const byHand = () => what.value === "drawing" || what.value === "picture";
  const scene = () => `a {} ${PLACES.find((place) => !lesson.captions.some((caption) => caption.endsWith(place)))}`;
  const worded = (prompt, word) => prompt.replaceAll("{}", word).replaceAll(lesson.word, word);

  // ---- What it is to learn ----

  // Nothing of what was learned before holds any more.
  function anew() {
    [lesson, begun] = [null, false];
    const kind = what.value;
    own.hidden = !isOwn();
    own.querySelectorAll("[data-own]").forEach((one) => { one.hidden = !one.dataset.own.split(" ").includes(kind); });
    if (byHand()) sheet.tabIndex = 0;
    else sheet.removeAttribute("tabindex");
    sheet.setAttribute("role", byHand() ? "application" : "img");
    sheet.setAttribute("aria-label", byHand()
      ? `Your ${kind}: use the pen with a pointer or the arrow keys; with Shift they only move it`
      : "Your own thing, cut out");
    from.hidden = shown.hidden = panels.hidden = form.hidden = part(".zoti-word").hidden = part(".zoti-picture").hidden = true;
    label();
  }

  const label = () => {
    go.textContent = begun ? "Go on" : isOwn() && !lesson ? "Set it in five places" : "Teach it this, here";
  };

  const wipe = () => sheet.getContext("2d").clearRect(0, 0, SIZE, SIZE);
  function put(thing) {
    wipe();
    sheet.getContext("2d").drawImage(thing, 0, 0);
    anew();
  }
  const puts = {
    emoji: () => put(emoji(part(".zoti-emoji").value.trim())),
    drawing: () => { wipe(); anew(); },
    picture: async () => {
      wipe();
      anew();
      if (!chosen) { tell("Choose a picture, or drop one here. It stays on this machine."); return; }
      put(cutOut(await picture(chosen), Number(near.value)));
      tell("If too much of it is gone, or too little, move the slider, or rub out what is left with the pen.");
    },
  };
  const hand = drawing(sheet, () => byHand() && root.dataset.state !== "busy" && {
    colour: part(".zoti-colour").value, width: Number(part(".zoti-pen").value), rub: part(".zoti-does").value === "rubs",
  }, anew);

  async function choose() {
    try {
      if (isOwn()) await puts[what.value]();
      else anew();
    } catch (error) {
      chosen = null;
      tell(`It did not work: ${error.message}`);
    }
  }

  // ---- Loading ----

  async function load() {
    tell("Loading the model …");
    const giveUp = new AbortController();
    halt = () => giveUp.abort();
    ({ pupil, facts } = await engine((share) => {
      if (share !== undefined) { bar.value = share; return; }
      tell("All is here; the model wakes up …");
      bar.removeAttribute("value");
    }, giveUp.signal));
    noun.innerHTML = options(Object.fromEntries(facts.nouns.map((name) => [name, name])));
  }

  async function prepare() {
    const things = isOwn() ? { word: "<mine>", things: placed(sheet, facts.side) } : { lesson: what.selectedIndex };
    if (isOwn()) tell("It tries all its nouns on your pictures, forwards only …");
    lesson = await pupil.ask("study", things, ({ share }) => { bar.value = share; });
    noun.value = lesson.noun;
    shown.replaceChildren(...lesson.captions.map((caption, i) => {
      const canvas = document.createElement("canvas");
      canvas.setAttribute("role", "img");
      const figure = document.createElement("figure");
      figure.append(canvas, document.createElement("figcaption"));
      show(canvas, opaque(lesson.pictures[i]), facts.side, worded(caption, lesson.word));
      canvas.nextElementSibling.textContent = caption.replace(/^an? \{\} /, ""); // the same beginning five times
      return figure;
    }));
    from.hidden = shown.hidden = false;
    line.value = worded(PROMPT, lesson.word);
  }

  // ---- Learning and painting ----

  const paint = async (prompt, how = {}, step) => (await pupil.ask("paint", { prompts: [prompt], seed: 0, ...how }, step)).pictures[0];
  const before = (pixels, prompt) => show(part(".zoti-before"), pixels, facts.side, `before: ${worded(prompt, lesson.noun)}`);
  const after = (pixels, prompt) => show(part(".zoti-after"), pixels, facts.side, `now: ${worded(prompt, lesson.word)}`);
  const reveal = () => {
    panels.hidden = form.hidden = part(".zoti-word").hidden = part(".zoti-picture").hidden = false;
  };

  // One thing at a time, with its trouble told instead of lost.
  async function busy(doing) {
    const idle = [...root.querySelectorAll("button:not(.zoti-stop), select, input")];
    const hand = root.contains(document.activeElement) ? document.activeElement : null;
    idle.forEach((element) => { element.disabled = true; });
    root.dataset.state = "busy";
    bar.hidden = stop.hidden = false;
    if (hand) stop.focus(); // what is disabled loses a keyboard's focus
    bar.value = 0;
    halt = () => pupil?.stop();
    try {
      await doing();
    } catch (error) {
      tell(error instanceof Stopped
        ? `Stopped. ${begun ? "The word is what it has become; you may go on." : ""}`
        : `It did not work: ${error.message}`);
    }
    label();
    idle.forEach((element) => { element.disabled = false; });
    if (document.activeElement === stop || document.activeElement === document.body) hand?.focus({ preventScroll: true });
    bar.hidden = stop.hidden = true;
    root.dataset.state = "idle";
  }

  async function teach() {
    if (!pupil) await load();
    halt = () => pupil.stop();
    if (!lesson || lesson.foreign) {
      await prepare();
      if (isOwn()) {
        tell(`To the model it looks most like “${lesson.noun}”: there its word will start. Change that if you know better; then teach it.`);
        return;
      }
    }
    const all = steps[way.value];
    const prompt = scene();
    if (!begun) {
      tell("Painting what it knows …");
      const known = await paint(prompt, { plain: true });
      before(known, prompt);
      after(known, prompt);
    }
    reveal();
    const look = { prompts: [prompt], seed: 0, every: Math.ceil(all / LOOKS), steps: 12 };
    const losses = [];
    const asked = pupil.ask("learn", { method: way.value, seed: 0, steps: all, look, goOn: begun }, (now) => {
      if (now.pictures) { after(now.pictures[0], prompt); return; }
      bar.value = now.index / all;
      losses.push(now.loss);
      const mean = losses.slice(-20).reduce((sum, x) => sum + x, 0) / Math.min(losses.length, 20);
      tell(`Step ${count(now.index)} of ${count(all)} · loss ${mean.toFixed(4)} · ${count(now.passes)} forward passes · backward: 0`, false);
    });
    begun = true;
    const end = await asked;
    begun = false;
    after(await paint(prompt), prompt);
    tell(`Learned in ${count(end.passes)} forward passes, none backward. The word is ${lesson.word}.`);
  }

  async function write() {
    const prompt = line.value.trim();
    if (!prompt) throw new Error(`write something, such as “${worded(PROMPT, lesson.word)}”`);
    tell("Painting …");
    after(await paint(prompt, {}, ({ index }) => { bar.value = index / 50; }), prompt);
    before(await paint(prompt, { plain: true }, ({ index }) => { bar.value = 0.5 + index / 50; }), prompt);
    tell(prompt.toLowerCase().includes(lesson.word)
      ? `“${prompt}”`
      : `“${prompt}”, in which ${lesson.word}, the new word, does not stand.`);
  }

  // ---- Taking away and bringing back ----

  // Hands the reader a file, as if a link to it had been followed.
  function give(content, name) {
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(content), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }

  async function giveWord() {
    const { bytes } = await pupil.ask("file");
    give(new Blob([bytes], { type: "application/octet-stream" }), "learned_embeds.safetensors");
    tell(`${lesson.word} as a file that diffusers reads, and zoti: pipe.load_textual_inversion("learned_embeds.safetensors").`);
  }

  // Both pictures with their words, as one.
  async function givePicture() {
    const [side, gap, foot] = [384, 16, 48];
    const paper = Object.assign(document.createElement("canvas"), { width: 2 * side + 3 * gap, height: side + gap + foot });
    const pen = paper.getContext("2d");
    Object.assign(pen, { fillStyle: "#fff", font: "18px sans-serif" });
    pen.fillRect(0, 0, paper.width, paper.height);
    pen.fillStyle = "#1f2a37";
    [".zoti-before", ".zoti-after"].map(part).forEach((canvas, i) => {
      const left = gap + i * (side + gap);
      pen.drawImage(canvas, left, gap, side, side);
      pen.fillText(canvas.nextElementSibling.textContent, left, gap + side + 30, side);
    });
    give(await new Promise((done) => paper.toBlob(done)), "learned-in-the-page.png");
    tell("Both pictures, with their words.");
  }

  async function takeBack() {
    const bytes = new Uint8Array(await back.files[0].arrayBuffer());
    back.value = "";
    if (!pupil) await load();
    halt = () => pupil.stop();
    const there = await pupil.ask("read", { bytes });
    anew();
    lesson = there;
    const prompt = line.value = worded(scene(), lesson.word);
    before(await paint(prompt, { plain: true }), prompt);
    after(await paint(prompt), prompt);
    reveal();
    tell(`${lesson.word} is back. Teaching begins a word anew.`);
    lesson.foreign = true;
  }

  what.addEventListener("change", () => {
    hand.forget();
    part(".zoti-does").value = what.value === "picture" ? "rubs" : "draws";
    choose();
  });
  way.addEventListener("change", () => { begun = false; label(); });
  noun.addEventListener("change", () => busy(async () => {
    begun = false;
    lesson = await pupil.ask("study", { noun: noun.value });
    tell(`Its word will start from “${lesson.noun}”.`);
  }));
  part(".zoti-emoji").addEventListener("input", puts.emoji);
  part(".zoti-wipe").addEventListener("click", () => { hand.keep(); wipe(); anew(); });
  part(".zoti-undo").addEventListener("click", () => {
    if (hand.undo()) anew();
    else tell("There is nothing to take back.");
  });
  near.addEventListener("change", () => { hand.keep(); choose(); });
  file.addEventListener("change", () => { chosen = file.files[0]; hand.forget(); choose(); });
  root.addEventListener("dragover", (event) => event.preventDefault());
  root.addEventListener("drop", (event) => {
    event.preventDefault();
    if (root.dataset.state === "busy" || !event.dataTransfer.files.length) return;
    [what.value, chosen] = ["picture", event.dataTransfer.files[0]];
    what.dispatchEvent(new Event("change"));
  });
  go.addEventListener("click", () => busy(teach));
  stop.addEventListener("click", () => halt());
  back.addEventListener("change", () => busy(takeBack));
  part(".zoti-word").addEventListener("click", () => busy(giveWord));
  part(".zoti-picture").addEventListener("click", () => busy(givePicture));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    busy(write);
  });
  anew();
  tell("It loads 19 MB when asked to, and then needs no network. Nothing leaves this page.", false);
}

export default { render };
