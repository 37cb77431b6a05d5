"""One training loop for every part of tiny-sd: one process a core or one on a GPU, EMA, checkpoint and resume.

Small convolutions on a CPU are bound by dispatch, not by arithmetic: two processes of one thread each are faster
than one process of two threads, and do not collapse when something else runs; ZOTI_PROCESSES=1 leaves the other cores
to other work. Every batch is drawn from a generator seeded with (seed, process, step), so a killed run resumes to the
same data; checkpoints are safetensors. A run is as long as its minutes: the learning rate follows the clock.
"""

import csv
import datetime
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from artwork import BUILD
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PROCESSES = 1 if DEVICE == "cuda" else int(os.environ.get("ZOTI_PROCESSES", os.cpu_count() or 1))
EMA_EVERY = 4


#: where the processor has no bfloat16 (AVX2 only) it would be emulated, twenty times slower than float32
BFLOAT16 = DEVICE == "cuda" or torch.cpu._is_avx512_bf16_supported()


def autocast() -> torch.autocast:
    return torch.autocast(DEVICE, torch.bfloat16, enabled=BFLOAT16)


def learning_rate(step: int, done: float, peak: float) -> float:
    """Warm up for 200 steps, hold, fall linearly to a fiftieth over the last half; done: share of the run, 0 to 1."""
    return peak * min(1.0, (step + 1) / 200, max(0.02, (1 - done) * 2))


def _worker(
    rank: int,
    port: int,
    name: str,
    make: Callable,
    log: Path,
    minutes: float,
    lr: float,
    ema_decay: float,
    seed: int,
    save_every: int,
    kwargs: dict,
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=PROCESSES,
        timeout=datetime.timedelta(hours=1),
    )
    torch.manual_seed(seed)
    model, loss_fn = make(rank, processes=PROCESSES, **kwargs)  # the same weights in every process, its own data
    params = [p for p in model.parameters() if p.requires_grad]
    decay = [p for p in params if p.ndim > 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.01}, {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0}],
        lr=lr,
        betas=(0.9, 0.99),
        fused=True,
    )
    ema = [p.detach().clone() for p in params]
    step, spent, seen, path = 0, 0.0, 0, BUILD / f"{name}.ckpt.safetensors"
    if path.exists():
        step, spent, seen = _load(path, model, params, optimizer, ema)
    flat = torch.zeros(
        sum(p.numel() for p in params), device=DEVICE
    )  # all gradients are views of one buffer: one all-reduce
    for p, view in zip(params, flat.split([p.numel() for p in params]), strict=True):
        # in the parameter's own layout, for the fused optimizer walks through both as flat memory
        p.grad = view.as_strided(p.size(), p.stride(), view.storage_offset())
    began, totals, count, done = time.perf_counter() - spent, {}, 0, torch.zeros(1)
    while True:
        done[0] = min(1.0, (time.perf_counter() - began) / (60 * minutes))
        dist.broadcast(done, 0)  # one clock
        if done.item() >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, done.item(), lr)
        torch.manual_seed((seed * PROCESSES + rank) * 10_000_000 + step)
        loss, report, size = loss_fn(model, np.random.default_rng((seed, rank, step)), step)
        flat.zero_()
        loss.backward()
        if PROCESSES > 1:
            dist.all_reduce(flat)
        norm = flat.norm().item() / PROCESSES
        flat *= min(1.0, 1.0 / (norm + 1e-12)) / PROCESSES  # the mean, clipped to length 1
        optimizer.step()
        if step % EMA_EVERY == 0:
            torch._foreach_lerp_(ema, params, 1 - min(ema_decay**EMA_EVERY, (step + 1) / (step + 10)))
        seen, count, step = seen + size * PROCESSES, count + 1, step + 1
        for key, value in report.items():
            totals[key] = totals.get(key, 0.0) + value.item()
        if rank == 0 and step % 200 == 0:
            row = {
                "step": step,
                "seconds": round(time.perf_counter() - began),
                "pictures": seen,
                **{k: f"{v / count:.5f}" for k, v in totals.items()},
            }
            new = not log.exists()
            with log.open("a", newline="") as f:
                writer = csv.DictWriter(f, row)
                if new:
                    writer.writeheader()
                writer.writerow(row)
            totals, count = {}, 0
        if rank == 0 and step % save_every == 0:
            _save(path, (step, time.perf_counter() - began, seen), model, params, optimizer, ema)
    if rank == 0:
        _save(path, (step, time.perf_counter() - began, seen), model, params, optimizer, ema)
    dist.barrier()
    dist.destroy_process_group()


def _save(path: Path, progress: tuple[int, float, int], model: nn.Module, params: list, optimizer, ema: list) -> None:
    tensors = {f"model.{k}": v.clone() for k, v in model.state_dict().items()}
    for i, (p, e) in enumerate(zip(params, ema, strict=True)):
        state = optimizer.state[p]
        tensors |= {f"ema.{i}": e, f"m.{i}": state["exp_avg"], f"v.{i}": state["exp_avg_sq"]}
    tensors = {k: v.contiguous() for k, v in tensors.items()}
    save_file(tensors, path.with_suffix(".part"), metadata={"progress": json.dumps(progress)})
    path.with_suffix(".part").replace(path)


def _load(path: Path, model: nn.Module, params: list, optimizer, ema: list) -> tuple[int, float, int]:
    with safe_open(path, "pt") as f:
        step, spent, seen = json.loads(f.metadata()["progress"])
        model.load_state_dict({k[6:]: f.get_tensor(k) for k in f.keys() if k.startswith("model.")})
        for i, p in enumerate(params):
            ema[i].copy_(f.get_tensor(f"ema.{i}"))
            optimizer.state[p] = {
                "step": torch.tensor(float(step)),
                "exp_avg": torch.empty_like(p).copy_(f.get_tensor(f"m.{i}")),
                "exp_avg_sq": torch.empty_like(p).copy_(f.get_tensor(f"v.{i}")),
            }
    return step, spent, seen


def train(
    name: str,
    make: Callable,
    *,
    minutes: float,
    lr: float,
    ema_decay: float = 0.999,
    seed: int = 0,
    save_every: int = 500,
    **kwargs,
) -> None:
    """Train what `make(rank, processes, **kwargs) -> (model, loss_fn)` builds; resumes from its checkpoint in build/.

    loss_fn(model, rng, step) -> (loss, {figure to log: value}, pictures in the batch). The log goes to logs/NAME.csv.
    """
    logs = Path(__file__).parent / "logs"
    logs.mkdir(exist_ok=True)
    port = 29500 + os.getpid() % 1000
    torch.multiprocessing.spawn(
        _worker, (port, name, make, logs / f"{name}.csv", minutes, lr, ema_decay, seed, save_every, kwargs), PROCESSES
    )


def load_ema(name: str, model: nn.Module) -> int:
    """Put the averaged weights of build/NAME.ckpt.safetensors into the model; returns the steps trained."""
    with safe_open(BUILD / f"{name}.ckpt.safetensors", "pt") as f:
        model.load_state_dict({k[6:]: f.get_tensor(k) for k in f.keys() if k.startswith("model.")})
        params = [p for p in model.parameters() if p.requires_grad]
        with torch.no_grad():
            for i, p in enumerate(params):
                p.copy_(f.get_tensor(f"ema.{i}"))
        return json.loads(f.metadata()["progress"])[0]
