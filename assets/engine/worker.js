// What runs beside the page, so that it never freezes: takes requests one by one, and tells how they go.

import { Chance } from "./chance.js";
import { Explorer } from "./explore.js";
import { letters, Pupil } from "./pupil.js";
import { SETTINGS, compose } from "./settings.js";

// scope: a worker's own. A request is { ask, number, ... }; what is told of it is { number, told, ... }: "step" as often
// as there is something to see, at last "done", "stopped" or "failed". A request { ask: "stop" } stops what is running.
export function serve(scope, { address, inflate }) {
  let [pupil, explorer, stopped, queue] = [null, null, false, Promise.resolve()];
  let [run, last] = [null, null]; // of learning: what goes on, and its last step
  const asks = {
    async load({ parts }) {
      const bytes = {};
      for (const name of Object.keys(parts)) {
        bytes[name] = await inflate(parts[name]);
        delete parts[name];
      }
      const ort = await import(address(bytes.runtime));
      ort.env.wasm.wasmBinary = bytes.wasm;
      pupil = await Pupil.open(ort, bytes);
      ort.env.wasm.wasmBinary = undefined; // it is compiled by now, and 14 MB
      explorer = new Explorer(pupil);
      const { lessons, nouns, facts: { side } } = pupil;
      return { lessons: lessons.map(({ word }) => word), nouns: Object.keys(nouns), side, settings: Object.keys(SETTINGS) };
    },
    // A lesson to learn next: { lesson }, the number of one that the page brought; or { word, things }, bytes of RGBA of a reader's
    // own thing as it is to stand in each of the settings; or either begun from another noun, { noun }.
    async study({ lesson: which, word, things, noun }, tell) {
      run = null;
      if (things) {
        const chance = new Chance(0);
        const draw = (low, high) => low + (high - low) * chance.uniform();
        const names = Object.keys(SETTINGS);
        const pictures = names.map((name, i) => letters(compose(draw, things[i], name, pupil.facts.side)));
        const own = { word, noun: Object.keys(pupil.nouns)[0], captions: names.map((name) => `a {} ${name}`), pictures };
        pupil.study(own);
        const found = await pupil.propose({ step: async (share) => { tell({ share }); await breathe(); } });
        pupil.study({ ...own, noun: found[0] });
      } else {
        const lesson = which === undefined ? pupil.lesson : pupil.lessons[which];
        pupil.study(noun ? { ...lesson, noun } : lesson);
      }
      return pupil.lesson;
    },
    // What an explorer of a chapter asks; the lesson and its word stay as they are.
    async explore({ what, ...given }) {
      return explorer[what](given);
    },
    // A file of a word, as diffusers and zoti write it.
    async read({ bytes }) {
      run = null;
      return pupil.read(bytes);
    },
    // look: { prompts, seed, every }, pictures to be painted now and then with the word as it is by then. goOn: with the
    // run that was stopped, not with a new one; nothing happens between two steps, so nothing is lost.
    async learn({ method, seed, steps, every = 5, look, goOn }, tell) {
      if (!goOn || !run) run = pupil.learn({ method, seed, steps });
      for (;;) {
        const { value: step, done } = await run.next().catch((error) => { run = null; throw error; });
        if (done) break;
        const { index, loss, passes } = (last = step);
        if (index % every === 0) tell({ index, loss, passes });
        if (look && index % look.every === 0) tell({ pictures: await pupil.paint(look.prompts, { ...look, step: breathe }) });
        await breathe();
      }
      run = null;
      return { index: last.index, loss: last.loss, passes: last.passes };
    },
    async file() {
      return { bytes: pupil.file() };
    },
    async paint({ prompts, seed, plain, steps }, tell) {
      const word = plain ? pupil.initial : pupil.word;
      const step = async (index) => { tell({ index }); await breathe(); };
      return { pictures: await pupil.paint(prompts, { seed, word, step, ...(steps && { steps }) }) };
    },
  };

  // Lets a request to stop come in, and heeds it.
  async function breathe() {
    await new Promise((go) => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => { port1.close(); go(); };
      port2.postMessage(0);
    });
    if (stopped) throw new Stopped();
  }

  scope.onmessage = ({ data: { ask, number, ...rest } }) => {
    if (ask === "stop") { stopped = true; return; }
    queue = queue.then(async () => {
      stopped = false;
      const tell = (told) => scope.postMessage({ number, told: "step", ...told });
      try {
        scope.postMessage({ number, told: "done", ...(await asks[ask](rest, tell)) });
      } catch (error) {
        scope.postMessage({ number, told: error instanceof Stopped ? "stopped" : "failed", why: error.message });
      }
    });
  };
}

class Stopped extends Error {}
