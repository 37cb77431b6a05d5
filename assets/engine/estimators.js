// A gradient from forward passes: zoti.descent.estimators, to be read beside it.
//
// lossFn takes a list of candidates, each a Float64Array, and gives (or promises) a loss for each, all on the same
// picture, timestep and noise. An estimate is { grad, loss, directional, evaluations }.

import { combine } from "./linear.js";

const moved = (theta, e, mu) => theta.map((x, i) => x + mu * e[i]);

const gaussian = (theta, n, chance) => {
  const drawn = chance.normals(n * theta.length);
  return Array.from({ length: n }, (_, i) => drawn.slice(i * theta.length, (i + 1) * theta.length));
};

const average = (slopes, e, size) => combine(slopes.map((s) => s / slopes.length), e, size);

function check(n, mu) {
  if (!(n >= 1)) throw new RangeError(`n = ${n}: an estimate needs at least one direction`);
  if (!(mu > 0 && mu < Infinity)) throw new RangeError(`mu = ${mu}: the step of a finite difference must be positive`);
}

// Forward differences (ZOODiP Eq. 3): n + 1 evaluations.
export async function rge(lossFn, theta, { n = 2, mu = 1e-3, chance }) {
  check(n, mu);
  const e = gaussian(theta, n, chance);
  const [here, ...there] = await lossFn([theta, ...e.map((one) => moved(theta, one, mu))]);
  const directional = there.map((loss) => (loss - here) / mu);
  return { grad: average(directional, e, theta.length), loss: here, directional, evaluations: n + 1 };
}

// Central differences (Spall 1992; ZOODiP Eq. S11): 2 n evaluations.
export async function spsa(lossFn, theta, { n = 2, mu = 1e-3, chance }) {
  check(n, mu);
  const e = gaussian(theta, n, chance);
  const losses = await lossFn([...e.map((one) => moved(theta, one, mu)), ...e.map((one) => moved(theta, one, -mu))]);
  const directional = e.map((_, i) => (losses[i] - losses[n + i]) / (2 * mu));
  const loss = losses.reduce((sum, x) => sum + x, 0) / losses.length;
  return { grad: average(directional, e, theta.length), loss, directional, evaluations: 2 * n };
}
