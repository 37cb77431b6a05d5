// What the explorers in the chapters ask of the model, each answer a fraction of a second long. Nothing that is learned
// elsewhere in the page is touched.

import { Chance } from "./chance.js";
import { rge } from "./estimators.js";
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

  // Slopes along n directions, from losses and exactly, on one draw: the estimate of `rge`, with `exact` beside it, the
  // products of its directions with a gradient that is known. skip: how many directions of this seed were asked before.
  async slopes({ z, noise, t, word, caption, gradient, mu, seed, skip, n }) {
    const { model, tokenizer, facts: { rows } } = this.pupil;
    const loss = new DenoisingLoss(model, [tokenizer.knowing(word.name, rows).ids(caption)]);
    const [theta, chance, twin] = [Float64Array.from(word.vector), new Chance(seed), new Chance(seed)];
    for (const one of [chance, twin]) one.normals(skip * theta.length);
    const seen = await rge((words) => loss.losses(words, { image: 0, t, z, noise }), theta, { n, mu, chance });
    const e = twin.normals(n * theta.length);
    const exact = seen.directional.map((_, i) => dot(gradient, e.subarray(i * theta.length)));
    return { ...seen, exact };
  }

  // One step of ZOODiP on the page's first lesson: the next one of the run that goes on, or the first of another.
  async step({ seed, anew }) {
    if (anew) this.walk = this.pupil.run(this.pupil.lessons[0], { method: "zoodip", seed, steps: Infinity });
    return (await this.walk.next()).value;
  }
}
