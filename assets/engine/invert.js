// The loop: draw, estimate, project, step. zoti.invert, to be read beside it.

import { GaussNewton } from "./curvature.js";

const WORST = 10; // a loss above this has diverged: a model that predicts nothing has about 1

// Yields { index, theta, loss, removed, passes } after each step; forward passes are all there are. It may be left and
// asked to go on at any time, for nothing happens between two steps.
export async function* invert(objective, theta, { steps, n, mu, estimator, optimizer, subspace = null, chance }) {
  const whole = estimator instanceof GaussNewton;
  let [known, state, path] = [whole ? estimator.init() : null, optimizer.init(theta), subspace?.init()];
  let passes = 0;
  for (let index = 1; index <= steps; index++) {
    const draw = objective.draw(chance);
    const how = { n, mu, chance };
    const seen = whole
      ? await estimator.estimate((words) => objective.errors(words, draw), theta, known, how)
      : await estimator((words) => objective.losses(words, draw), theta, how);
    if (!(seen.loss <= WORST) || !seen.directional.every(Number.isFinite)) {
      throw new RangeError(`the loss is ${seen.loss} at step ${index}; a smaller learning rate or a larger mu may help`);
    }
    const [grad, removed] = subspace ? subspace.project(seen.grad, path) : [seen.grad, 0];
    [theta, state] = optimizer.update(grad, theta, state);
    if (subspace) path = subspace.observe(theta, path);
    if (whole) known = seen.state;
    passes += seen.evaluations;
    yield { index, theta, loss: seen.loss, removed, passes };
  }
}
