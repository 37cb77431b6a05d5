// Subspace Gradient: zoti.descent.subspace, to be read beside it (ZOODiP Eqs. 4-8, Alg. 2).

import { combine, dot, eigen } from "./linear.js";

// Every tau steps, find the directions in which the last tau words hardly moved and take them out of the gradient.
export class SubspaceGradient {
  constructor({ tau = 128, nu = 1e-3 } = {}) {
    if (!(tau >= 2 && nu > 0 && nu < 1)) throw new RangeError(`tau = ${tau}, nu = ${nu}: tau >= 2 and 0 < nu < 1`);
    Object.assign(this, { tau, nu });
  }

  init() {
    return { buffer: [], removed: [] };
  }

  observe(theta, { buffer, removed }) {
    const seen = [...buffer, Float64Array.from(theta)];
    return seen.length < this.tau ? { buffer: seen, removed } : { buffer: [], removed: this.lowVariance(seen) };
  }

  // With B = U S V^T the standardised words: rows of V^T beyond those that explain more than 1 - nu of the variance.
  // B has more columns than rows, so S^2 and U come from B B^T, and V^T = S^-1 U^T B.
  lowVariance(words) {
    const [n, size] = [words.length, words[0].length];
    const b = words.map((word) => word.map((x, i) => x - words[0][i]));
    for (let i = 0; i < size; i++) {
      const mean = b.reduce((sum, row) => sum + row[i], 0) / n;
      const deviation = Math.sqrt(b.reduce((sum, row) => sum + (row[i] - mean) ** 2, 0) / n);
      for (const row of b) row[i] = deviation > 0 ? (row[i] - mean) / deviation : 0;
    }
    const { values, vectors } = eigen(b.map((row) => Float64Array.from(b, (other) => dot(row, other))));
    const total = values.reduce((sum, x) => sum + Math.max(x, 0), 0);
    let [kept, explained] = [1, 0];
    for (const value of values) {
      explained += Math.max(value, 0);
      if (explained > (1 - this.nu) * total) break;
      kept++;
    }
    // centring costs one dimension: what is left of it is rounding, which the library takes to be float32's
    const rest = vectors.slice(kept).filter((_, i) => values[kept + i] > (n * 2 ** -23) ** 2 * values[0]);
    return rest.map((u, i) => combine(u.map((x) => x / Math.sqrt(values[kept + i])), b, size));
  }

  // What is left of a gradient, and the share of its squared length that is gone.
  project(grad, { removed }) {
    const shadow = combine(removed.map((row) => dot(row, grad)), removed, grad.length);
    const whole = dot(grad, grad);
    return [grad.map((x, i) => x - shadow[i]), whole > 0 ? dot(shadow, shadow) / whole : 0];
  }
}
