// At which timesteps to ask the model: zoti.descent.timesteps, to be read beside it.

// Partial Uniform Timestep Sampling, PUTS: t ~ U{low, ..., high - 1} (ZOODiP Eq. 9).
export class PartialUniform {
  constructor(low, high) {
    if (!(low >= 0 && low < high)) throw new RangeError(`timesteps [${low}, ${high}): choose 0 <= low < high`);
    Object.assign(this, { low, high });
  }

  sample(chance) {
    return chance.integer(this.low, this.high);
  }
}
