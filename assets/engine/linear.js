// The linear algebra that a word needs. Vectors are Float64Array, matrices lists of their rows.

export const zeros = (n) => new Float64Array(n);

export const identity = (n) => Array.from({ length: n }, (_, i) => zeros(n).map((_, j) => Number(i === j)));

export function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

// sum_i weights[i] rows[i]
export function combine(weights, rows, size) {
  const sum = zeros(size);
  rows.forEach((row, i) => {
    for (let j = 0; j < size; j++) sum[j] += weights[i] * row[j];
  });
  return sum;
}

// The lower triangle C with A = C C^T of a symmetric, positive definite A.
export function cholesky(a) {
  const n = a.length;
  const c = a.map(() => zeros(n));
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let rest = a[i][j];
      for (let k = 0; k < j; k++) rest -= c[i][k] * c[j][k];
      if (i === j && !(rest > 0)) throw new RangeError("this matrix is not positive definite");
      c[i][j] = i === j ? Math.sqrt(rest) : rest / c[j][j];
    }
  }
  return c;
}

// x with C x = b, for a lower triangle C.
export function forward(c, b) {
  const x = zeros(b.length);
  for (let i = 0; i < b.length; i++) {
    let rest = b[i];
    for (let k = 0; k < i; k++) rest -= c[i][k] * x[k];
    x[i] = rest / c[i][i];
  }
  return x;
}

// x with C^T x = b, for a lower triangle C.
export function backward(c, b) {
  const x = zeros(b.length);
  for (let i = b.length - 1; i >= 0; i--) {
    let rest = b[i];
    for (let k = i + 1; k < b.length; k++) rest -= c[k][i] * x[k];
    x[i] = rest / c[i][i];
  }
  return x;
}

// Orthonormal vectors that span the same as these, by Householder's reflections: with LAPACK's signs, so that a run of
// the library's can be replayed.
export function orthonormal(vectors) {
  const columns = vectors.map((v) => Float64Array.from(v));
  const n = columns[0].length;
  const mirrors = [];
  const reflect = ({ v, scale }, x) => {
    const share = scale * dot(v, x);
    for (let i = 0; i < n; i++) x[i] -= share * v[i];
  };
  columns.forEach((x, j) => {
    mirrors.forEach((mirror) => reflect(mirror, x));
    const v = x.map((value, i) => (i < j ? 0 : value));
    const below = dot(v, v) - v[j] ** 2;
    if (below > 0) v[j] += (v[j] < 0 ? -1 : 1) * Math.sqrt(dot(v, v));
    mirrors.push({ v, scale: below > 0 ? 2 / dot(v, v) : 0 });
  });
  return columns.map((_, j) => {
    const q = zeros(n);
    q[j] = 1;
    for (let i = mirrors.length - 1; i >= 0; i--) reflect(mirrors[i], q);
    return q;
  });
}

// Eigenvalues of a symmetric matrix, falling, and their vectors as rows, by Jacobi's rotations.
export function eigen(matrix) {
  const n = matrix.length;
  const a = matrix.map((row) => Float64Array.from(row));
  const vectors = identity(n);
  const size = Math.sqrt(a.reduce((sum, row) => sum + dot(row, row), 0));
  for (let sweep = 0; sweep < 60; sweep++) {
    let off = 0;
    for (let p = 0; p < n; p++) for (let q = p + 1; q < n; q++) off += a[p][q] ** 2;
    if (Math.sqrt(off) <= 1e-15 * size) break;
    for (let p = 0; p < n; p++) {
      for (let q = p + 1; q < n; q++) {
        if (a[p][q] === 0) continue;
        const theta = (a[q][q] - a[p][p]) / (2 * a[p][q]);
        const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1));
        const cos = 1 / Math.sqrt(t * t + 1);
        const sin = t * cos;
        for (let k = 0; k < n; k++) [a[k][p], a[k][q]] = [cos * a[k][p] - sin * a[k][q], sin * a[k][p] + cos * a[k][q]];
        for (const m of [a, vectors]) {
          for (let k = 0; k < n; k++) [m[p][k], m[q][k]] = [cos * m[p][k] - sin * m[q][k], sin * m[p][k] + cos * m[q][k]];
        }
      }
    }
  }
  const order = Array.from({ length: n }, (_, i) => i).sort((i, j) => a[j][j] - a[i][i]);
  return { values: order.map((i) => a[i][i]), vectors: order.map((i) => vectors[i]) };
}
