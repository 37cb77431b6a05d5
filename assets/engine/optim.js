// Optimizers whose state is data: zoti.descent.optim, to be read beside it.

import { zeros } from "./linear.js";

// Adam (Kingma & Ba 2015) on a zeroth-order gradient.
export class ZOAdam {
  constructor({ lr = 5e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8 } = {}) {
    Object.assign(this, { lr, beta1, beta2, eps });
  }

  init(theta) {
    return { m: zeros(theta.length), v: zeros(theta.length), step: 0 };
  }

  update(grad, theta, state) {
    const { lr, beta1, beta2, eps } = this;
    const step = state.step + 1;
    const m = state.m.map((x, i) => beta1 * x + (1 - beta1) * grad[i]);
    const v = state.v.map((x, i) => beta2 * x + (1 - beta2) * grad[i] ** 2);
    const [whole, square] = [1 - beta1 ** step, 1 - beta2 ** step];
    return [theta.map((x, i) => x - (lr * m[i]) / whole / (Math.sqrt(v[i] / square) + eps)), { m, v, step }];
  }
}

// theta - lr grad: with lr = 1 it takes a Gauss-Newton step whole.
export class ZOSGD {
  constructor({ lr }) {
    this.lr = lr;
  }

  init() {
    return {};
  }

  update(grad, theta) {
    return [theta.map((x, i) => x - this.lr * grad[i]), {}];
  }
}
