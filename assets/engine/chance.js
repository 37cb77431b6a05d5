// All chance of a run comes from here: a seeded generator, so that a run can be repeated (sfc32, Doty-Humphrey 2010).

export class Chance {
  // seed: an integer. `state`, four 32-bit integers, says where the generator is; set it to go on from there.
  constructor(seed) {
    this.state = [seed | 0, (seed / 2 ** 32) | 0, 0x9e3779b9 | 0, 1];
    for (let i = 0; i < 15; i++) this.bits(); // seeds that are near each other have gone their own ways after this
  }

  bits() {
    let [a, b, c, counter] = this.state;
    const drawn = (((a + b) | 0) + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (((c << 21) | (c >>> 11)) + drawn) | 0;
    this.state = [a, b, c, counter];
    return drawn >>> 0;
  }

  // In [0, 1), 53 bits.
  uniform() {
    return ((this.bits() >>> 5) * 2 ** 26 + (this.bits() >>> 6)) / 2 ** 53;
  }

  // One of low, ..., high - 1.
  integer(low, high) {
    return low + Math.floor(this.uniform() * (high - low));
  }

  // n numbers from N(0, 1), by Box and Muller.
  normals(n) {
    const drawn = new Float64Array(n);
    for (let i = 0; i < n; i += 2) {
      const length = Math.sqrt(-2 * Math.log(1 - this.uniform()));
      const angle = 2 * Math.PI * this.uniform();
      drawn[i] = length * Math.cos(angle);
      if (i + 1 < n) drawn[i + 1] = length * Math.sin(angle);
    }
    return drawn;
  }
}
