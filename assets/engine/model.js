// A model that can only run: the graphs of zoti.model.export in onnxruntime's own hands.

const OPTIONS = {
  executionProviders: ["wasm"],
  extra: { session: { disable_quant_qdq: "1" } }, // or activations are rounded, and differences of losses drown in it
};

export class Model {
  // facts: model.json. sessions: noise, encode, decode.
  constructor(ort, facts, sessions) {
    Object.assign(this, { ort, facts, sessions });
    this.pixels = 3 * facts.side ** 2;
    this.size = facts.latent.reduce((a, b) => a * b);
  }

  // graphs: { noise, encode, decode }, each a Uint8Array, or something that promises one.
  static async load(ort, facts, graphs) {
    ort.env.wasm.numThreads = 1; // more need headers that no file:// and few hosts send
    const sessions = {};
    for (const name of ["noise", "encode", "decode"]) {
      sessions[name] = await ort.InferenceSession.create(await graphs[name], OPTIONS);
    }
    return new Model(ort, facts, sessions);
  }

  async run(name, feeds) {
    const tensors = {};
    for (const [input, [type, data, shape]] of Object.entries(feeds)) {
      tensors[input] = new this.ort.Tensor(type, data, shape);
    }
    return this.sessions[name].run(tensors);
  }

  // The noise predicted, b times: for words (b), prompts' ids (b) and noisy latents (b) at one timestep.
  async noise(words, ids, latents, t) {
    const { width, length, latent } = this.facts;
    const b = words.length;
    const { noise } = await this.run("noise", {
      word: ["float32", joined(words, width), [b, 1, width]],
      ids: ["int64", BigInt64Array.from(ids.flat(), BigInt), [b, length]],
      z_t: ["float32", joined(latents, this.size), [b, ...latent]],
      t: ["int64", BigInt64Array.of(BigInt(t)), [1]],
    });
    return cut(noise.data, b);
  }

  // Pixels, each picture 3 x side x side numbers in [-1, 1], as the means and deviations of their latents.
  async encode(pictures) {
    const { side } = this.facts;
    const pixels = joined(pictures, this.pixels);
    const { mean, std } = await this.run("encode", { pixels: ["float32", pixels, [pictures.length, 3, side, side]] });
    return { mean: cut(mean.data, pictures.length), std: cut(std.data, pictures.length) };
  }

  // Latents as pixels in [0, 1].
  async decode(latents) {
    const z = joined(latents, this.size);
    const { pixels } = await this.run("decode", { z: ["float32", z, [latents.length, ...this.facts.latent]] });
    return cut(pixels.data, latents.length);
  }
}

function joined(rows, size) {
  const whole = new Float32Array(rows.length * size);
  rows.forEach((row, i) => whole.set(row, i * size));
  return whole;
}

const cut = (data, n) => Array.from({ length: n }, (_, i) => data.slice((i * data.length) / n, ((i + 1) * data.length) / n));
