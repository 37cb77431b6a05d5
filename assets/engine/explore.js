// What the explorers in the chapters ask of the model, each answer a fraction of a second long. Nothing that is learned
// elsewhere in the page is touched.

import { Chance } from "./chance.js";
import { dot } from "./linear.js";
import { DenoisingLoss } from "./objective.js";
import { pixels } from "./pupil.js";

export class Explorer {
  constructor(pupil) {
    this.pupil = pupil;
  }

  // What a latent, noised, is taken for at one time, told each of these captions: the losses, and, if the reader looks,
  // pictures of the noised latent and of the guesses. word: { name, vector }, one of our own that captions may hold.
  async believe({ z, word, captions, t, seed, look }) {
    const { model, tokenizer, facts: { rows, alphas_cumprod: alphas, prediction_type: kind } } = this.pupil;
    const knows = tokenizer.knowing(word.name, rows);
    const loss = new DenoisingLoss(model, captions.map((caption) => knows.ids(caption)));
    const noise = Float32Array.from(new Chance(seed).normals(z.length));
    const errors = [];
    for (const image of captions.keys()) errors.push(...(await loss.errors([word.vector], { image, t, z, noise })));
    const losses = errors.map((r) => dot(r, r) / r.length);
    if (!look) return { losses };
    const [signal, spread] = [Math.sqrt(alphas[t]), Math.sqrt(1 - alphas[t])];
    const share = kind === "epsilon" ? spread / signal : spread; // an error in the noise is one in the latent
    const noised = z.map((x, i) => signal * x + spread * noise[i]);
    const guesses = errors.map((r) => z.map((x, i) => x - share * r[i]));
    return { losses, pictures: (await model.decode([noised, ...guesses])).map(pixels) };
  }
}
