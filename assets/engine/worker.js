// What runs beside the page, so that it never freezes: takes requests one by one, and tells how they go.

import { Pupil } from "./pupil.js";

// scope: a worker's own. A request is { ask, number, ... }; what is told of it is { number, told, ... }: "step" as often
// as there is something to see, at last "done", "stopped" or "failed". A request { ask: "stop" } stops what is running.
export function serve(scope, { address, inflate }) {
  let [pupil, stopped, queue] = [null, false, Promise.resolve()];
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
      const { word, class_word: noun, captions, pictures } = pupil.lesson;
      return { word, noun, captions, pictures, side: pupil.facts.side };
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
