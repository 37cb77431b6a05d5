"""Search the settings of forward-only runs, on six subjects of their own: `python presets.py` -> logs/presets.json.

A run is 1,000 steps of three passes on INT8 weights, as everywhere in the book.
"""

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import mean

import torch
from artwork import BUILD, HERE
from engine import PROCESSES
from evaluate import DATA, key, shelf, word
from subjects import subject
from world import World

GRID = [  # (mu, lr, timesteps); the first are the paper's
    (1e-3, 5e-3, (500, 900)),
    (1e-3, 1e-2, (500, 900)),
    (1e-3, 2e-2, (500, 900)),
    (1e-3, 5e-3, (300, 900)),
    (1e-3, 5e-3, (600, 1000)),
]


def main() -> None:
    subjects = json.loads((HERE / "presets.json").read_text())
    folder = BUILD / "presets"
    for number, (name, told) in enumerate(subjects.items()):
        if not (folder / name).exists():
            subject(World(), told, 1000 + number, folder / name)
    kind, found = str(folder.relative_to(DATA)), {}
    jobs = [
        (name, "forward only", 0, lr, mu, window, str(shelf(mu, lr, window)), kind)
        for mu, lr, window in GRID
        for name in subjects
    ]
    with ProcessPoolExecutor(PROCESSES, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        for job, facts in zip(jobs, pool.map(word, jobs), strict=True):
            found.setdefault(f"mu {job[4]:g}, lr {job[3]:g}, t {job[5][0]} to {job[5][1]}", {})[job[0]] = round(
                facts["paired"], 4
            )
    table = {setting: {"mean": round(mean(runs.values()), 4), **runs} for setting, runs in found.items()}
    print(*(f"{setting}: {runs['mean']}" for setting, runs in table.items()), sep="\n")
    (HERE / "logs" / "presets.json").write_text(json.dumps({"weights": key(), **table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
