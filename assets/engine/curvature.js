// A whole step from forward passes, by differencing errors, not their mean square: zoti.descent.curvature, to be read
// beside it.

import { backward, cholesky, combine, dot, forward, identity, orthonormal, zeros } from "./linear.js";

const STEADY = 0.95; // how much of what is known of the errors' size each step keeps

export class GaussNewton {
  // rows: orthonormal directions, the U-Net's most sensitive ones. spread: in lengths of the word, `length`.
  constructor({ rows, length, spread = 0.25, forgetting = 0.97, temperature = 10 }) {
    Object.assign(this, { rows, forgetting, temperature, spread: spread * length });
  }

  init() {
    return { precision: identity(this.rows.length), variance: 0 };
  }

  // errorsFn takes a list of candidates and gives (or promises) each one's errors, a list of numbers whose mean square
  // is its loss. Costs n + 1 evaluations. The estimate's `state` is what is known after it.
  async estimate(errorsFn, theta, state, { n = 4, mu = 1e-3, chance }) {
    const { rows, forgetting, temperature, spread } = this;
    const [r, size] = [rows.length, theta.length];
    if (!(n >= 1 && n <= r)) throw new RangeError(`n = ${n}: there are ${r} directions`);
    const u = leastKnown(state.precision, n, chance);
    const e = u.map((one) => combine(one, rows, size).map((x) => Math.sqrt(size) * x));
    const candidates = [theta, ...e.map((one) => theta.map((x, i) => x + mu * one[i]))];
    const [here, ...there] = (await errorsFn(candidates)).map((errors) => Float64Array.from(errors));
    const slopes = there.map((errors) => errors.map((x, i) => (x - here[i]) / mu));
    const loss = dot(here, here) / here.length;
    const variance = state.variance > 0 ? STEADY * state.variance + (1 - STEADY) * loss : loss;

    const noise = temperature * Math.max(variance, 2 ** -126); // a first error may be none at all
    const j = slopes.map((slope) => slope.map((x) => (x * spread) / Math.sqrt(size)));
    const told = j.map((a) => j.map((b) => dot(a, b) / noise));
    const precision = state.precision.map((row, p) =>
      row.map((x, q) => {
        let sum = forgetting * x + (p === q ? 1 - forgetting : 0);
        for (let a = 0; a < n; a++) for (let b = 0; b < n; b++) sum += u[a][p] * told[a][b] * u[b][q];
        return sum;
      }),
    );
    const pull = combine(j.map((one) => dot(one, here) / noise), u, r);
    const c = cholesky(precision);
    const step = backward(c, forward(c, pull)).map((x) => spread * x);
    const directional = slopes.map((slope) => (2 * dot(slope, here)) / here.length);
    return { grad: combine(step, rows, size), loss, directional, evaluations: n + 1, state: { precision, variance } };
  }
}

// Orthonormal rows (n, r), the span of n draws from N(0, precision^-1).
function leastKnown(precision, n, chance) {
  const r = precision.length;
  const drawn = chance.normals(r * n); // (r, n), as the library draws them
  const c = cholesky(precision);
  const columns = Array.from({ length: n }, (_, i) => zeros(r).map((_, p) => drawn[p * n + i]));
  return orthonormal(columns.map((column) => backward(c, column)));
}
