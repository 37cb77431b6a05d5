// The loss a word is judged by: zoti.objective, to be read beside it.

import { dot } from "./linear.js";

// L(theta) = ||eps - eps_phi(z_t, t, c(y(theta)))||^2, averaged over elements (ZOODiP Eq. 1).
export class DenoisingLoss {
  // ids: of each picture's caption, in which the word stands. latents: { mean, std }, lists of a picture's numbers.
  constructor(model, ids, latents, timesteps) {
    Object.assign(this, { model, ids, latents, timesteps });
  }

  // All chance in one evaluation: a picture, a timestep, its latent and noise.
  draw(chance) {
    const image = chance.integer(0, this.latents.mean.length);
    const [mean, std] = [this.latents.mean[image], this.latents.std[image]];
    const own = chance.normals(mean.length);
    const z = Float32Array.from(mean, (x, i) => x + std[i] * own[i]);
    const noise = Float32Array.from(chance.normals(mean.length));
    return { image, t: this.timesteps.sample(chance), z, noise };
  }

  // Predicted noise less true, for each of the candidates.
  async errors(words, { image, t, z, noise }) {
    const { alphas_cumprod: alphas, prediction_type: kind } = this.model.facts;
    const [signal, spread] = [Math.sqrt(alphas[t]), Math.sqrt(1 - alphas[t])];
    const noisy = z.map((x, i) => signal * x + spread * noise[i]);
    const target = kind === "epsilon" ? noise : noise.map((x, i) => signal * x - spread * z[i]);
    const all = (one) => words.map(() => one);
    const predicted = await this.model.noise(words, all(this.ids[image]), all(noisy), t);
    return predicted.map((one) => Float64Array.from(one, (x, i) => x - target[i]));
  }

  async losses(words, draw) {
    return (await this.errors(words, draw)).map((r) => dot(r, r) / r.length);
  }
}
