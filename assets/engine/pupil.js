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
  // parts: each a Uint8Array: facts, tokenizer, table, lesson, noise, encode, decode.
  static async open(ort, parts) {
    const told = (name) => JSON.parse(new TextDecoder().decode(parts[name]));
    const pupil = new Pupil();
    const [facts, lesson] = [told("facts"), told("lesson")];
    const { shape, data } = readTensors(parts.table).table;
    Object.assign(pupil, { facts, lesson, tokenizer: new Tokenizer(told("tokenizer")) });
    pupil.tokenizer.add(lesson.word, facts.rows); // ids from the size of the model's own vocabulary on are ours
    pupil.initial = Float64Array.from(data.subarray(lesson.row * shape[1], (lesson.row + 1) * shape[1]));
    pupil.model = await Model.load(ort, facts, parts);
    pupil.word = pupil.initial;
    return pupil;
  }

  // What the word is judged by: its pictures, each under its caption.
  async objective() {
    const { lesson, facts } = this;
    const ids = lesson.captions.map((caption) => this.tokenizer.ids(caption.replaceAll("{}", lesson.word)));
    const latents = await this.model.encode(lesson.pictures.map((text) => planes(text, facts.side)));
    return new DenoisingLoss(this.model, ids, latents, new PartialUniform(lesson.settings.low, lesson.settings.high));
  }

  // A run, as `invert` yields it. method: "zoodip", or "gauss-newton", which needs fewer passes.
  async *learn({ method = "gauss-newton", steps, seed = 0, chance = new Chance(seed) }) {
    const { mu, lr, steps: usual } = this.lesson.settings;
    const { rows, length } = this.lesson.directions;
    const how = {
      zoodip: () => ({
        steps: steps ?? usual, n: 2, mu, estimator: rge, optimizer: new ZOAdam({ lr }), subspace: new SubspaceGradient(),
      }),
      "gauss-newton": () => ({
        steps: steps ?? 100, n: 4, mu, estimator: new GaussNewton({ rows, length }), optimizer: new ZOSGD({ lr: 1 }),
      }),
    }[method];
    if (!how) throw new RangeError(`no method ${method}; there are zoodip and gauss-newton`);
    for await (const step of invert(await this.objective(), this.initial, { ...how(), chance })) {
      this.word = step.theta;
      yield step;
    }
  }

  // The word as the file that diffusers and zoti read, learned_embeds.safetensors.
  file() {
    const { word, class_word: noun } = this.lesson;
    return writeTensors({ [word]: { shape: [1, this.word.length], data: this.word } }, { word, noun });
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

// Bytes of RGB in base64, as the model sees them: three planes in [-1, 1].
export function planes(text, side) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const area = side * side;
  if (bytes.length !== 3 * area) throw new RangeError(`this picture has ${bytes.length} bytes, not ${3 * area}`);
  return Float32Array.from({ length: 3 * area }, (_, i) => bytes[3 * (i % area) + Math.floor(i / area)] / 127.5 - 1);
}

// Three planes in [0, 1], as bytes of RGBA.
function pixels(planes) {
  const area = planes.length / 3;
  return Uint8ClampedArray.from({ length: 4 * area }, (_, i) => (i % 4 < 3 ? planes[(i % 4) * area + (i >> 2)] * 255 : 255));
}
