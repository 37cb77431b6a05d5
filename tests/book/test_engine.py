"""The page's engine, assets/engine/, against the library: the same draws, the same words. Runs in node."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from tests.helpers import generator
from zoti import ZOSGD, GaussNewton, SubspaceGradient, ZOAdam, rge, spsa
from zoti.descent import SensitiveDirections, random_directions

ENGINE = Path(__file__).parents[2] / "assets" / "engine"
D, M, STEPS = 10, 16, 14
THETA = torch.randn(1, D, generator=generator(1), dtype=torch.float64)
A = torch.randn(M, D, generator=generator(2), dtype=torch.float64)

SCRIPT = """
import { readFileSync } from "node:fs";
const told = JSON.parse(readFileSync(0));
const load = (name) => import(`file://${told.engine}/${name}.js`);
const { Chance } = await load("chance"), { rge, spsa } = await load("estimators"), { dot } = await load("linear");
const { ZOAdam, ZOSGD } = await load("optim"), { SubspaceGradient } = await load("subspace");
const { GaussNewton } = await load("curvature"), { PartialUniform } = await load("timesteps");
const refused = async (doing) => { try { await doing(); } catch (error) { return error instanceof RangeError; } };

const errors = (word) => told.a.map((row) => Math.sin(dot(row, word)) - 0.3);
const loss = (word) => { const r = errors(word); return dot(r, r) / r.length; };
const replay = (rows) => ({ left: [...rows], normals(n) { return Float64Array.from(this.left.shift()); } });

async function walk(estimator, draws) {
  const chance = replay(draws), adam = new ZOAdam({ lr: 0.05 }), subspace = new SubspaceGradient({ tau: 5, nu: 0.05 });
  let theta = Float64Array.from(told.theta), state = adam.init(theta), path = subspace.init(), evaluations = 0;
  const steps = [];
  for (const _ of draws) {
    const seen = await estimator(async (words) => words.map(loss), theta, { n: 2, mu: 1e-3, chance });
    const [grad, removed] = subspace.project(seen.grad, path);
    [theta, state] = adam.update(grad, theta, state);
    path = subspace.observe(theta, path);
    evaluations += seen.evaluations;
    steps.push({ theta: [...theta], loss: seen.loss, directional: seen.directional, removed, evaluations });
  }
  return steps;
}

async function newton(draws) {
  const whole = new ZOSGD({ lr: 1 }), rows = told.rows.map((row) => Float64Array.from(row));
  const newton = new GaussNewton({ rows, length: told.length });
  let theta = Float64Array.from(told.theta), state = newton.init();
  const chance = replay(draws), steps = [];
  for (const _ of draws) {
    const seen = await newton.estimate((words) => words.map(errors), theta, state, { n: 3, mu: 1e-2, chance });
    [theta] = whole.update(seen.grad, theta, {});
    state = seen.state;
    steps.push({ theta: [...theta], loss: seen.loss, directional: seen.directional, variance: state.variance });
  }
  return { steps, precision: state.precision.map((row) => [...row]) };
}

const chance = new Chance(7), kept = [...chance.state], puts = new PartialUniform(500, 900);
const normals = [...chance.normals(20001)];
const again = new Chance(0);
again.state = kept;
const a = Float64Array.of(1);
console.log(JSON.stringify({
  rge: await walk(rge, told.draws), spsa: await walk(spsa, told.draws), newton: await newton(told.newton),
  normals, same: [...again.normals(20001)].every((x, i) => x === normals[i]),
  other: [...new Chance(8).normals(3)], wide: [...new Chance(7 + 2 ** 32).normals(3)],
  t: Array.from({ length: 20000 }, () => puts.sample(chance)),
  refused: await Promise.all([
    refused(() => rge(() => [0], a, { n: 0, chance })), refused(() => spsa(() => [0], a, { mu: 0, chance })),
    refused(() => new PartialUniform(900, 500)), refused(() => new SubspaceGradient({ tau: 1 })),
    refused(() => new GaussNewton({ rows: [a], length: 1 }).estimate(() => [], a, {}, { n: 2, chance })),
  ]),
}));
"""


def errors(words: torch.Tensor) -> torch.Tensor:
    return (words.flatten(1) @ A.T).sin() - 0.3


def loss(words: torch.Tensor) -> torch.Tensor:
    return errors(words).square().mean(1)


def directions() -> SensitiveDirections:
    rows = torch.linalg.qr(torch.randn(D, 6, generator=generator(3), dtype=torch.float64)).Q.T
    return SensitiveDirections(rows.reshape(6, 1, D).contiguous(), torch.ones(D), float(THETA.norm()), 0)


@pytest.fixture(scope="module")
def page():
    """What the page's engine made of the library's draws."""
    if not shutil.which("node"):
        pytest.skip("needs node")
    draws = [random_directions(THETA, 2, 1e-3, generator(i)).flatten().tolist() for i in range(STEPS)]
    newton = [torch.randn(6, 3, generator=generator(i), dtype=torch.float64).flatten().tolist() for i in range(STEPS)]
    rows = directions().rows.flatten(1).tolist()
    told = {"engine": str(ENGINE), "a": A.tolist(), "theta": THETA[0].tolist(), "draws": draws, "newton": newton}
    told |= {"rows": rows, "length": directions().length}
    done = subprocess.run(
        ["node", "--input-type=module", "-e", SCRIPT], input=json.dumps(told), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("estimator", [rge, spsa])
def test_with_the_same_draws_it_learns_the_same_word(page, estimator):
    adam, subspace = ZOAdam(lr=0.05), SubspaceGradient(tau=5, nu=0.05)
    theta, state, path, evaluations, removals = THETA, adam.init(THETA), subspace.init(THETA), 0, []
    for i, there in enumerate(page[estimator.__name__]):
        seen = estimator(loss, theta, 2, 1e-3, generator=generator(i))
        grad, removed = subspace.project(seen.grad, path)
        theta, state = adam.update(grad, theta, state)
        path = subspace.observe(theta, path)
        evaluations += seen.evaluations
        assert there["evaluations"] == evaluations
        assert there["theta"] == pytest.approx(theta[0].tolist(), rel=1e-6, abs=1e-8)
        assert there["directional"] == pytest.approx(seen.directional.tolist(), rel=1e-6, abs=1e-8)
        assert (there["loss"], there["removed"]) == pytest.approx((float(seen.loss), removed), rel=1e-6, abs=1e-8)
        removals.append(removed)
    assert max(removals) > 0.01  # there was something to remove


def test_with_the_same_draws_it_takes_the_same_gauss_newton_steps(page):
    newton, whole, theta = GaussNewton(directions()), ZOSGD(1.0), THETA
    state = newton.init(THETA)
    for i, there in enumerate(page["newton"]["steps"]):
        seen = newton(errors, theta, 3, 1e-2, generator=generator(i), **state)
        theta, _ = whole.update(seen.grad, theta, {})
        state = newton.observe(seen, state)
        assert there["theta"] == pytest.approx(theta[0].tolist(), rel=1e-7, abs=1e-9)
        assert there["directional"] == pytest.approx(seen.directional.tolist(), rel=1e-6, abs=1e-8)
        assert (there["loss"], there["variance"]) == pytest.approx((float(seen.loss), float(state["variance"])))
    torch.testing.assert_close(torch.tensor(page["newton"]["precision"], dtype=torch.float64), state["precision"])
    assert loss(theta[None]) < 0.8 * loss(THETA[None])


def test_chance_is_seeded_normal_and_goes_on_from_its_state(page):
    normals, n = torch.tensor(page["normals"], dtype=torch.float64), 20001
    assert page["same"]
    assert page["other"] != page["normals"][:3] != page["wide"]
    for power, moment in [(1, 0), (2, 1), (3, 0), (4, 3)]:  # four standard errors: E x^2p - (E x^p)^2 over n
        spread = {1: 1, 2: 2, 3: 15, 4: 96}[power] ** 0.5
        assert abs(normals.pow(power).mean() - moment) < 4 * spread / n**0.5
    assert abs((normals[1:] * normals[:-1]).mean()) < 4 / n**0.5
    t = torch.tensor(page["t"], dtype=torch.float64)
    assert (int(t.min()), int(t.max())) == (500, 899)
    assert abs(t.mean() - 699.5) < 4 * (400**2 / 12 / len(t)) ** 0.5


def test_what_cannot_be_is_refused(page):
    assert page["refused"] == [True] * 5
