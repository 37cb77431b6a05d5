// The page's one engine, whoever asks: its parts, loaded when first asked for, and the worker that runs them. Nothing is
// ever sent. The parts are book/engine.py's scripts; what is done with them is assets/engine/, so that nothing freezes.

export class Stopped extends Error {}

// The script of all these modules lies where the parts do; in a notebook there is none.
const beside = document.querySelector('script[src*="zoti-modules.js"]');
const found = {}; // parts that have come in
let whole = null;

// Promises { pupil, facts }, to all who ask the same. told(share), from 0 to 1, as the parts come in, then told() while
// the model wakes up. signal: gives up; what has come in by then stays, so that a loading can go on.
export function engine(told, signal) {
  return (whole ??= open(told, signal).catch((error) => { whole = null; throw error; }));
}

async function open(told, signal) {
  await parts(new URL("learn/", beside.src), (share) => {
    told(share);
    if (signal.aborted) throw new Stopped();
  });
  told();
  const pupil = new Pupil(found.modules);
  const end = () => pupil.end();
  signal.addEventListener("abort", end);
  try {
    const awake = pupil.ask("load", { parts: found });
    for (const name of Object.keys(found)) delete found[name]; // it has its own by now, and both are 25 MB
    return { pupil, facts: await awake };
  } catch (error) {
    end(); // or each further try would leave one behind
    throw error;
  } finally {
    signal.removeEventListener("abort", end);
  }
}

// ---- Parts ---------------------------------------------------------------------------------------------------------------

// Scripts, because a page opened from a folder may not fetch. told(share) as they come in, and may throw. What is there
// stays in `found`, so that a loading that was stopped or broke can go on.
async function parts(base, told) {
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
export class Pupil {
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
