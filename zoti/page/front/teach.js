// The page learns a word itself: its reader's own browser runs the model, forwards only. An anywidget front-end module.
// state: steps, how many each way of learning takes. Nothing is loaded before the reader asks, and nothing is ever sent.
// The parts are book/engine.py's scripts; what is done with them is assets/engine/, in a worker, so that nothing freezes.

const WAYS = { zoodip: "ZOODiP, as in the paper", "gauss-newton": "Gauss-Newton, in fewer passes" };
const SCENE = "a {} in the ocean"; // which no picture of the lesson shows
const PROMPT = "a purple {} on the beach";
const LOOKS = 10; // how often it paints while it learns

class Stopped extends Error {}

// ---- Parts ---------------------------------------------------------------------------------------------------------------

// Scripts, because a page opened from a folder may not fetch. told(share) as they come in, and may throw. What is there
// stays in `found`, so that a loading that was stopped or broke can go on.
async function parts(base, found, told) {
  const script = (name) => new Promise((done, failed) => {
    const element = Object.assign(document.createElement("script"), { src: new URL(name, base).href });
    const end = (after) => () => { element.remove(); after(); };
    element.onload = end(done);
    element.onerror = end(() => failed(new Error(`${name} could not be loaded; is the folder whole?`)));
    document.head.append(element);
  });
  window.zotiPart = (name, i, text) => { (found[name] ??= [])[i] = text; };
  if (!window.zotiParts) await script("parts.js");
  const all = Object.entries(window.zotiParts);
  const letters = all.reduce((sum, [, { letters: n }]) => sum + n, 0);
  let here = 0;
  for (const [name, { pieces, letters: n }] of all) {
    for (let i = 0; i < pieces; i++) {
      if (!found[name]?.[i]) await script(`${name}-${i}.js`);
      told((here += n / pieces) / letters);
    }
  }
}

// ---- The worker ------------------------------------------------------------------------------------------------------------

// Runs in the worker. Modules come as text, for a Blob knows no neighbours: each import is given its own address.
function boot(scope) {
  const addresses = {};
  const address = (text) => URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
  const inflate = async (texts) => {
    const letters = atob(texts.join(""));
    const packed = new Uint8Array(letters.length);
    for (let i = 0; i < letters.length; i++) packed[i] = letters.charCodeAt(i);
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };
  const waiting = [];
  scope.onmessage = (first) => {
    if (!first.data.modules) { waiting.push(first); return; }
    (async () => {
      const modules = JSON.parse(new TextDecoder().decode(await inflate(first.data.modules)));
      const place = (name) => (addresses[name] ??= address(
        modules[name].replace(/from "\.\/(\w+)\.js"/g, (_, other) => `from "${place(other)}"`)));
      const { serve } = await import(place("worker"));
      serve(scope, { address, inflate });
      waiting.forEach((one) => scope.onmessage(one));
    })().catch((error) => scope.postMessage({ number: 0, told: "failed", why: error.message }));
  };
}

// ask(what, with, step) promises the answer to a request, and calls step with what is said meanwhile.
class Pupil {
  constructor(modules) {
    const source = new Blob([`(${boot})(self);`], { type: "text/javascript" });
    this.worker = new Worker(URL.createObjectURL(source));
    this.waiting = new Map();
    this.count = 0;
    this.worker.onmessage = ({ data: { number, told, ...rest } }) => {
      if (number === 0) { this.fail(new Error(rest.why)); return; }
      const { done, failed, step } = this.waiting.get(number);
      if (told === "step") { step(rest); return; }
      this.waiting.delete(number);
      if (told === "done") done(rest);
      else failed(told === "stopped" ? new Stopped() : new Error(rest.why));
    };
    this.worker.onerror = (event) => this.fail(new Error(event.message ?? "this browser runs no worker from here"));
    this.worker.postMessage({ modules });
  }

  fail(error) {
    this.waiting.forEach(({ failed }) => failed(error));
    this.waiting.clear();
  }

  ask(ask, rest = {}, step = () => {}) {
    const number = ++this.count;
    return new Promise((done, failed) => {
      this.waiting.set(number, { done, failed, step });
      this.worker.postMessage({ ask, number, ...rest });
    });
  }

  stop() {
    this.worker.postMessage({ ask: "stop" });
  }

  end() {
    this.worker.terminate();
    this.fail(new Stopped());
  }
}

// ---- The panel ---------------------------------------------------------------------------------------------------------------

const PANEL = `
  <div class="zoti-hands"><button type="button" class="zoti-go">Teach it this, here</button>
    <button type="button" class="zoti-stop" hidden>Stop</button>
    <label>by <select class="zoti-way">${Object.entries(WAYS).map(([way, name]) => `<option value="${way}">${name}</option>`).join("")}</select></label></div>
  <progress max="1" value="0" aria-label="how far it is" hidden></progress>
  <p class="zoti-told"></p><p class="zoti-said" role="status"></p>
  <div class="zoti-panels" hidden>
    <figure><canvas role="img" class="zoti-before"></canvas><figcaption></figcaption></figure>
    <figure><canvas role="img" class="zoti-after"></canvas><figcaption></figcaption></figure>
  </div>
  <form class="zoti-write" hidden><label>Write with the new word <input type="text" autocomplete="off" spellcheck="false"></label> <button>Paint</button></form>
  <p class="zoti-take" hidden><button type="button" class="zoti-word">Take the word away</button>
    <button type="button" class="zoti-picture">Take the pictures</button></p>`;

const count = (n) => n.toLocaleString("en");

function show(canvas, pixels, side, words) {
  Object.assign(canvas, { width: side, height: side });
  canvas.setAttribute("aria-label", words);
  canvas.getContext("2d").putImageData(new ImageData(pixels, side, side), 0, 0);
  canvas.nextElementSibling.textContent = words;
}

function render({ model, el }) {
  const beside = document.querySelector('script[src*="zoti-modules.js"]');
  const root = document.createElement("div");
  root.className = "zoti-teach";
  el.append(root);
  if (!beside) {
    root.textContent = "In the built book, this page learns the word itself; a notebook has zoti for it.";
    return;
  }
  root.innerHTML = PANEL;
  const part = (selector) => root.querySelector(selector);
  const [go, stop, way, bar, panels, form, line, take] = [
    ".zoti-go", ".zoti-stop", ".zoti-way", "progress", ".zoti-panels", ".zoti-write", ".zoti-write input", ".zoti-take",
  ].map(part);
  const steps = model.get("state").steps;
  const loaded = {};
  let [pupil, facts, halt, begun] = [null, null, () => {}, false];

  // What is seen by all, and what is said to those who listen: not every step.
  const tell = (words, aloud = true) => {
    part(".zoti-told").textContent = words;
    if (aloud) part(".zoti-said").textContent = words;
  };
  tell("It loads 19 MB when asked to, and then needs no network. Nothing leaves this page.", false);

  async function load() {
    tell("Loading the model …");
    let stopped = false;
    halt = () => { stopped = true; };
    await parts(new URL("learn/", beside.src), loaded, (share) => {
      bar.value = share;
      if (stopped) throw new Stopped();
    });
    tell("All is here; the model wakes up …");
    bar.removeAttribute("value");
    const { modules, ...rest } = loaded;
    const opened = new Pupil(modules);
    halt = () => opened.end();
    try {
      facts = await opened.ask("load", { parts: rest });
    } catch (error) {
      opened.end(); // or each further try would leave one behind
      throw error;
    }
    for (const name of Object.keys(loaded)) delete loaded[name];
    pupil = opened;
    line.value = PROMPT.replace("{}", facts.word);
  }

  const paint = async (prompt, how = {}, step) => (await pupil.ask("paint", { prompts: [prompt], seed: 0, ...how }, step)).pictures[0];

  const fresh = () => {
    begun = false;
    go.textContent = "Teach it this, here";
  };

  // One thing at a time, with its trouble told instead of lost.
  async function busy(doing) {
    const idle = [go, way, ...form.elements, ...take.children];
    idle.forEach((element) => { element.disabled = true; });
    root.dataset.state = "busy";
    bar.hidden = stop.hidden = false;
    bar.value = 0;
    halt = () => pupil?.stop();
    try {
      await doing();
    } catch (error) {
      tell(error instanceof Stopped
        ? `Stopped. ${begun ? "The word is what it has become; you may go on." : ""}`
        : `It did not work: ${error.message}`);
    }
    bar.hidden = stop.hidden = true;
    idle.forEach((element) => { element.disabled = false; });
    root.dataset.state = "idle";
  }

  async function teach() {
    if (!pupil) await load();
    halt = () => pupil.stop();
    const all = steps[way.value];
    const titled = (word) => SCENE.replace("{}", word);
    const after = (pixels) => show(part(".zoti-after"), pixels, facts.side, `now: ${titled(facts.word)}`);
    if (!begun) {
      tell("Painting what it knows …");
      const before = await paint(SCENE, { plain: true });
      show(part(".zoti-before"), before, facts.side, `before: ${titled(facts.noun)}`);
      after(before);
    }
    panels.hidden = form.hidden = take.hidden = false;
    const look = { prompts: [SCENE], seed: 0, every: Math.ceil(all / LOOKS), steps: 12 };
    const losses = [];
    const asked = pupil.ask("learn", { method: way.value, seed: 0, steps: all, look, goOn: begun }, (now) => {
      if (now.pictures) { after(now.pictures[0]); return; }
      bar.value = now.index / all;
      losses.push(now.loss);
      const mean = losses.slice(-20).reduce((sum, x) => sum + x, 0) / Math.min(losses.length, 20);
      tell(`Step ${count(now.index)} of ${count(all)} · loss ${mean.toFixed(4)} · ${count(now.passes)} forward passes · backward: 0`, false);
    });
    [begun, go.textContent] = [true, "Go on"];
    const end = await asked;
    fresh();
    after(await paint(SCENE));
    tell(`Learned in ${count(end.passes)} forward passes, none backward. The word is ${facts.word}.`);
  }

  async function write() {
    const prompt = line.value.trim();
    if (!prompt) throw new Error(`write something, such as “${PROMPT.replace("{}", facts.word)}”`);
    tell("Painting …");
    const pixels = await paint(prompt, {}, ({ index }) => { bar.value = index / 25; });
    show(part(".zoti-after"), pixels, facts.side, prompt);
    const plain = await paint(prompt, { plain: true });
    show(part(".zoti-before"), plain, facts.side, prompt.replaceAll(facts.word, facts.noun));
    tell(prompt.toLowerCase().includes(facts.word)
      ? `“${prompt}”`
      : `“${prompt}”, in which ${facts.word}, the new word, does not stand.`);
  }

  // Hands the reader a file, as if a link to it had been followed.
  function give(content, name) {
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(content), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }

  async function giveWord() {
    const { bytes } = await pupil.ask("file");
    give(new Blob([bytes], { type: "application/octet-stream" }), "learned_embeds.safetensors");
    tell(`${facts.word} as a file that diffusers reads, and zoti: pipe.load_textual_inversion("learned_embeds.safetensors").`);
  }

  // Both pictures with their words, as one.
  async function givePicture() {
    const [side, gap, foot] = [384, 16, 48];
    const sheet = Object.assign(document.createElement("canvas"), { width: 2 * side + 3 * gap, height: side + gap + foot });
    const pen = sheet.getContext("2d");
    Object.assign(pen, { fillStyle: "#fff", imageSmoothingEnabled: false, font: "18px sans-serif" });
    pen.fillRect(0, 0, sheet.width, sheet.height);
    pen.fillStyle = "#1f2a37";
    [".zoti-before", ".zoti-after"].map(part).forEach((canvas, i) => {
      const left = gap + i * (side + gap);
      pen.drawImage(canvas, left, gap, side, side);
      pen.fillText(canvas.nextElementSibling.textContent, left, gap + side + 30, side);
    });
    give(await new Promise((done) => sheet.toBlob(done)), "learned-in-the-page.png");
  }

  go.addEventListener("click", () => busy(teach));
  way.addEventListener("change", fresh);
  stop.addEventListener("click", () => halt());
  part(".zoti-word").addEventListener("click", () => busy(giveWord));
  part(".zoti-picture").addEventListener("click", () => busy(givePicture));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    busy(write);
  });
}

export default { render };
