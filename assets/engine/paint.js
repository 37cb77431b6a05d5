// Pictures of prompts: DDIM (Song, Meng & Ermon 2021) with classifier-free guidance (Ho & Salimans 2022), as diffusers'
// DDIMScheduler steps it with `leading` timesteps and no noise of its own.

// One picture for each prompt (its ids), pixels in [0, 1]. word: the vector of our word; empty: the ids of no prompt.
// latents: the noise that each begins with. step(i, steps) is awaited before each, and may throw to stop it.
export async function paint(model, word, prompts, empty, latents, { steps = 25, guidance = 4, step = () => {} } = {}) {
  const { alphas_cumprod: alphas, prediction_type: kind, steps_offset: offset } = model.facts;
  const stride = Math.floor(alphas.length / steps);
  const both = [...prompts.map(() => empty), ...prompts];
  let z = latents.map((one) => Float32Array.from(one));
  for (let i = 0; i < steps; i++) {
    await step(i, steps);
    const t = (steps - 1 - i) * stride + offset;
    const predicted = await model.noise(both.map(() => word), both, [...z, ...z], t);
    const [here, next] = [alphas[t], alphas[Math.max(t - stride, 0)]];
    const [signal, spread] = [Math.sqrt(here), Math.sqrt(1 - here)];
    z = z.map((x, p) => {
      const [without, given] = [predicted[p], predicted[prompts.length + p]];
      return x.map((value, j) => {
        const said = without[j] + guidance * (given[j] - without[j]);
        const clean = kind === "epsilon" ? (value - spread * said) / signal : signal * value - spread * said;
        const noise = kind === "epsilon" ? said : signal * said + spread * value;
        return Math.sqrt(next) * clean + Math.sqrt(1 - next) * noise;
      });
    });
  }
  return model.decode(z);
}
