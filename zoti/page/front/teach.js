// The page learns a word itself: its reader's own browser runs the model, forwards only. An anywidget front-end module.
// state: steps, which of the two ways takes how many. Nothing is loaded before the reader asks, and nothing ever sent.
// The parts are book/engine.py's scripts; what is done with them is assets/engine/, in a worker, so that nothing freezes.

const WAYS = { "gauss-newton": "Gauss-Newton (the quick way)", zoodip: "ZOODiP, as in the paper" };

// ---- Parts ---------------------------------------------------------------------------------------------------------------

// Scripts, because a page opened from a folder may not fetch. told(share) as they come in.
async function parts(base, told) {
  const script = (name) => new Promise((done, failed) => {
    const element = Object.assign(document.createElement("script"), { src: new URL(name, base).href });
    element.onload = () => { element.remove(); done(); };
    element.onerror = () => failed(new Error(`${name} could not be loaded; is the folder whole?`));
    document.head.append(element);
  });
  const found = {};
  window.zotiPart = (name, i, text) => { (found[name] ??= [])[i] = text; };
  try {
    await script("parts.js");
    const all = Object.entries(window.zotiParts);
    const letters = all.reduce((sum, [, { letters: n }]) => sum + n, 0);
    let here = 0;
    for (const [name, { pieces, letters: n }] of all) {
      for (let i = 0; i < pieces; i++) {
        await script(`${name}-${i}.js`);
        told((here += n / pieces) / letters);
      }
    }
  } finally {
    delete window.zotiPart;
  }
  return found;
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

class Stopped extends Error {}

// ask(what, with, step) promises the answer to a request, and calls step with what is said meanwhile.
class Pupil {
  constructor(modules) {
    const source = new Blob([`(${boot})(self);`], { type: "text/javascript" });
    this.worker = new Worker(URL.createObjectURL(source));
    this.waiting = new Map();
    this.count = 0;
    this.worker.onmessage = ({ data: { number, told, ...rest } }) => {
      if (number === 0) { this.fail(rest.why); return; }
      const { done, failed, step } = this.waiting.get(number);
      if (told === "step") { step(rest); return; }
      this.waiting.delete(number);
      if (told === "done") done(rest);
      else failed(told === "stopped" ? new Stopped() : new Error(rest.why));
    };
    this.worker.onerror = (event) => this.fail(event.message ?? "this browser runs no worker from here");
    this.worker.postMessage({ modules });
  }

  fail(why) {
    this.waiting.forEach(({ failed }) => failed(new Error(why)));
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
}

// ---- The panel ---------------------------------------------------------------------------------------------------------------

const PROMPT = "a purple {} on the beach";

const PANEL = `
  <p class="zoti-teach-now"><button type="button" class="zoti-go">Teach it this, here</button>
    <button type="button" class="zoti-stop" hidden>Stop</button>
    <label>by <select>${Object.entries(WAYS).map(([way, name]) => `<option value="${way}">${name}</option>`).join("")}</select></label></p>
  <progress max="1" value="0" aria-label="how far it is" hidden></progress>
  <p role="status" class="zoti-told">Loads 19 MB when asked to, and then needs no network. Nothing leaves this page.</p>
  <div class="zoti-panels" hidden>
    <figure><canvas role="img" class="zoti-before"></canvas><figcaption></figcaption></figure>
    <figure><canvas role="img" class="zoti-after"></canvas><figcaption></figcaption></figure>
  </div>
  <form hidden><label>Write with the new word <input type="text" size="32" autocomplete="off"></label> <button>Paint</button></form>`;

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
  const [go, stop, way, bar, told, panels, form, line] = [
    ".zoti-go", ".zoti-stop", "select", "progress", ".zoti-told", ".zoti-panels", "form", "input",
  ].map(part);
  const steps = model.get("state").steps;
  let [pupil, facts] = [null, null];

  async function load() {
    const all = await parts(new URL("learn/", beside.src), (share) => { bar.value = share; });
    told.textContent = "All is here; the model wakes up …";
    bar.removeAttribute("value");
    const { modules, ...rest } = all;
    const opened = new Pupil(modules);
    try {
      facts = await opened.ask("load", { parts: rest });
    } catch (error) {
      opened.worker.terminate(); // or each further try would leave one behind
      throw error;
    }
    pupil = opened;
    line.value = PROMPT.replace("{}", facts.word);
  }

  const paint = async (prompts, how = {}, step) => (await pupil.ask("paint", { prompts, seed: 0, ...how }, step)).pictures[0];

  // One thing at a time, with its trouble told instead of lost.
  async function busy(doing) {
    const buttons = [go, way, ...form.elements];
    buttons.forEach((button) => { button.disabled = true; });
    bar.hidden = false;
    try {
      await doing();
    } catch (error) {
      told.textContent = error instanceof Stopped
        ? "Stopped; the word is what it had become. Teaching it again begins anew."
        : `It did not work: ${error.message}`;
    }
    bar.hidden = stop.hidden = true;
    buttons.forEach((button) => { button.disabled = false; });
    root.dataset.state = "idle";
  }

  async function teach() {
    root.dataset.state = "busy";
    if (!pupil) {
      told.textContent = "Loading the model …";
      await load();
    }
    const scene = "a {} in the ocean"; // which no picture shows
    const all = steps[way.value];
    const titled = (word) => scene.replace("{}", word);
    stop.hidden = panels.hidden = false;
    bar.value = 0;
    form.hidden = false;
    const before = await paint([scene], { plain: true });
    show(part(".zoti-before"), before, facts.side, `before: ${titled(facts.noun)}`);
    const after = (pixels) => show(part(".zoti-after"), pixels, facts.side, `now: ${titled(facts.word)}`);
    const look = { prompts: [scene], seed: 0, every: Math.ceil(all / 6), steps: 12 };
    const end = await pupil.ask("learn", { method: way.value, seed: 0, steps: all, look }, (now) => {
      if (now.pictures) { after(now.pictures[0]); return; }
      bar.value = now.index / all;
      told.textContent = `step ${now.index} of ${all} · loss ${now.loss.toFixed(4)} · ${now.passes.toLocaleString("en")} forward passes · backward: 0`;
    });
    after(await paint([scene]));
    told.textContent = `Learned in ${end.passes.toLocaleString("en")} forward passes, none backward. The word is ${facts.word}.`;
  }

  go.addEventListener("click", () => busy(teach));
  stop.addEventListener("click", () => pupil?.stop());
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    busy(async () => {
      root.dataset.state = "busy";
      const prompt = line.value.trim();
      if (!prompt) throw new Error(`write something, such as “${PROMPT.replace("{}", facts.word)}”`);
      stop.hidden = false;
      const pixels = await paint([prompt], {}, ({ index }) => { bar.value = index / 25; });
      show(part(".zoti-after"), pixels, facts.side, prompt);
      told.textContent = prompt.toLowerCase().includes(facts.word)
        ? `“${prompt}”`
        : `“${prompt}”, in which ${facts.word}, the new word, does not stand.`;
    });
  });
}

export default { render };
