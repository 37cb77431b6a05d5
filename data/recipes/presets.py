"""Search the settings of forward-only runs, on six subjects of their own: `python presets.py` -> logs/presets.json.

A run is 1,000 steps of three passes at timesteps 500 to 900 on INT8 weights, as everywhere in the book.
"""

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import mean

import torch
from artwork import BUILD, HERE
from engine import PROCESSES
from evaluate import DATA, key, word
from subjects import subject
from world import World

GRID = [(1e-3, 5e-3), (1e-3, 2e-2), (1e-2, 2e-2)]  # (mu, lr); the first are the paper's


def main() -> None:
    subjects = json.loads((HERE / "presets.json").read_text())
    folder = BUILD / "presets"
    for number, (name, told) in enumerate(subjects.items()):
        if not (folder / name).exists():
            subject(World(), told, 1000 + number, folder / name)
    kind, found = str(folder.relative_to(DATA)), {}
    jobs = [
        (name, "forward only", 0, lr, mu, str(BUILD / "words" / f"{key()}-{mu:g}-{lr:g}"), kind)
        for mu, lr in GRID
        for name in subjects
    ]
    with ProcessPoolExecutor(PROCESSES, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        for job, facts in zip(jobs, pool.map(word, jobs), strict=True):
            found.setdefault(f"mu {job[4]:g} lr {job[3]:g}", {})[job[0]] = round(facts["paired"], 4)
    table = {setting: {"mean": round(mean(runs.values()), 4), **runs} for setting, runs in found.items()}
    print(*(f"{setting}: {runs['mean']}" for setting, runs in table.items()), sep="\n")
    (HERE / "logs" / "presets.json").write_text(json.dumps({"weights": key(), **table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
