"""Where a page sets a reader's own thing, assets/engine/settings.js, against the world that tiny-sd was trained on."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SIDE = 64
SCRIPT = """
import { readFileSync } from "node:fs";
const told = JSON.parse(readFileSync(0));
const { SETTINGS, compose } = await import(`file://${told.engine}/settings.js`);
const thing = Uint8Array.from(told.thing), pictures = {};
for (const name of Object.keys(SETTINGS)) {
  const left = [...told.chance];
  const draw = (low, high) => low + (high - low) * left.shift();
  pictures[name] = [...compose(draw, thing, name, told.side)];
}
console.log(JSON.stringify(pictures));
"""


class Dice:
    """numpy's `uniform`, from a list."""

    def __init__(self, drawn):
        self.left = list(drawn)

    def uniform(self, low=0.0, high=1.0, size=None):
        drawn = [low + (high - low) * self.left.pop(0) for _ in range(1 if size is None else size)]
        return drawn[0] if size is None else np.array(drawn)


@pytest.fixture
def world(monkeypatch):
    """data/recipes/world.py; the drawings it would place, which npm brings, are not asked for."""
    names = ["CONCEPTS", "HELD_OUT_CONCEPTS", "HELD_OUT_DRAWINGS", "HELD_OUT_STYLES", "TRAINING_STYLES"]
    artwork = SimpleNamespace(BUILD=Path(), **{name: {} for name in names})
    monkeypatch.setitem(sys.modules, "artwork", artwork)
    spec = importlib.util.spec_from_file_location("world", ROOT / "data" / "recipes" / "world.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "world", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not shutil.which("node"), reason="needs node")
def test_five_settings_are_painted_as_in_the_models_own_world(world):
    chance = np.random.default_rng(3).uniform(size=40).tolist()
    thing = np.zeros((SIDE, SIDE, 4), np.uint8)
    thing[20:30, 20:30] = (200, 100, 50, 128)
    told = {
        "engine": str(ROOT / "assets" / "engine"),
        "side": SIDE,
        "chance": chance,
        "thing": thing.flatten().tolist(),
    }
    command = ["node", "--input-type=module", "-e", SCRIPT]
    done = subprocess.run(command, input=json.dumps(told), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    painted = json.loads(done.stdout)
    assert len(painted) == 5 and set(painted) <= set(world.SETTINGS)
    alpha = thing[..., 3:] / 255
    for name, there in painted.items():
        ground = world.SETTINGS[name](Dice(chance), world.ground(SIDE))
        ours = np.clip(ground * (1 - alpha) + thing[..., :3] / 255 * alpha, 0, 1) * 255
        assert np.abs(np.array(there).reshape(SIDE, SIDE, 3) - ours).max() <= 1, name
        assert ours.std() > 20 or name == "on a white background"
