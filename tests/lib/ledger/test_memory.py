"""The ledger, held against counting by hand, against the kernel, and against itself."""

import gc
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from zoti.ledger import CATEGORIES, Ledger
from zoti.model import quantize_

DEVICES = ["meta", "cpu"]


def chain(device: str) -> nn.Module:
    """(10 x 20 + 20) + (20 x 5 + 5) = 325 parameters."""
    return nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5)).to(device)


def train(net: nn.Module, x: torch.Tensor, **options) -> Ledger:
    adam = torch.optim.AdamW(net.parameters(), **options)
    with Ledger() as ledger:
        ledger.own(net)
        for _ in range(2):
            with ledger.phase("forward"):
                loss = net(x).sum()
            with ledger.phase("backward"):
                loss.backward()
            with ledger.phase("step"):
                adam.step()
            with ledger.phase("zero"):
                adam.zero_grad()
    return ledger


@pytest.mark.parametrize("device", DEVICES)
def test_a_chain_of_linears_counted_by_hand(device):
    peaks = train(chain(device), torch.zeros(7, 10, device=device), foreach=True).peaks
    parameters, moments, steps = 4 * 325, 2 * 4 * 325, 4 * 4  # Adam counts steps in one float per tensor
    assert list(peaks) == ["outside", "forward", "backward", "step", "zero"]
    assert peaks["outside"].total == peaks["outside"].parts["parameters"] == parameters
    assert peaks["forward"].parts["saved activations"] == 4 * 7 * (10 + 20)  # the input, and what ReLU gave
    assert peaks["step"].parts["gradients"] == parameters
    assert peaks["step"].parts["optimizer state"] == moments + steps
    assert peaks["step"].parts["temporaries"] == pytest.approx(parameters, abs=16)  # foreach: a list as large as all
    assert set(peaks["forward"].parts) == set(CATEGORIES)


def test_meta_and_cpu_agree_to_the_byte():
    meta, cpu = (train(chain(d), torch.zeros(7, 10, device=d), foreach=False) for d in DEVICES)
    assert meta.peaks == cpu.peaks


@pytest.mark.parametrize("device", DEVICES)
def test_the_peak_of_a_sequence_of_temporaries(device):
    with Ledger() as ledger:
        a = torch.ones(100, device=device)  # 400 bytes
        b = a.to(torch.float64)  # 800: peak 1200
        b.mul_(2)
        view = b[:10].view(2, 5)
        assert ledger.live["temporaries"] == 1200
        del a, b
        assert ledger.live["temporaries"] == 800  # ten numbers keep a hundred alive
        del view
        assert ledger.live["temporaries"] == 0
    assert ledger.peak.total == ledger.peak.parts["temporaries"] == 1200


def test_phases_have_peaks_of_their_own_and_go_on_when_entered_again():
    with Ledger() as ledger:
        with ledger.phase("small"):
            kept = torch.ones(10)
        with ledger.phase("large"):
            torch.ones(1000)
        with ledger.phase("small"):
            torch.ones(20)
    assert {name: peak.total for name, peak in ledger.peaks.items()} == {"small": 120, "large": 4040}
    assert ledger.peak.phase == "large"
    assert "0.00 MB in small" in str(ledger.peaks["small"])
    assert len(kept) == 10


def test_a_ledger_entered_again_begins_again():
    ledger = Ledger()
    for n in (1000, 10):
        with ledger:
            torch.ones(n)
        assert ledger.peak.total == 4 * n


def test_what_was_made_before_is_booked_when_it_is_touched():
    before = torch.ones(50)[:10]  # ten numbers, and a storage of fifty
    with Ledger() as ledger:
        before.view(5, 2)
        assert ledger.live["temporaries"] == 200


def test_operators_that_arrive_whole_in_inference_mode_are_taken_apart():
    x, labels = torch.zeros(100, 50, device="meta"), torch.zeros(100, dtype=torch.int64, device="meta")
    with Ledger() as ledger, torch.inference_mode():
        ledger.book("buffers", x, labels)
        F.cross_entropy(x, labels)
    assert 4 * 100 * 50 <= ledger.peak.parts["temporaries"] <= 4 * 100 * 50 + 8  # log_softmax inside, and two numbers


def test_a_ledger_changes_no_result_and_leaves_nothing_behind():
    net, x = chain("cpu"), torch.randn(7, 10)
    attention = F.scaled_dot_product_attention
    plain = torch.autograd.grad(net(x).square().sum(), list(net.parameters()))
    gc.disable()
    try:
        with Ledger() as ledger:
            ledger.own(net)
            y = net(x).square()
            y.sum().backward()
            ghost = weakref.ref(y.untyped_storage())
            assert ledger.live["gradients"] == 4 * 325
            del y
            assert ghost() is None  # what autograd saved is no circle
            y = x.clone().requires_grad_().exp()  # keeps its own result for the backward pass
            ghost = weakref.ref(y.untyped_storage())
            del y
            assert ghost() is None
        assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), plain, strict=True))
        assert F.scaled_dot_product_attention is attention
        assert not any(p._post_accumulate_grad_hooks for p in net.parameters())
        after = dict(ledger.peaks)
        (net(x).sum()).backward()
        ghost = weakref.ref(ledger)
        peaks = ledger.peaks
        del ledger
        assert ghost() is None
        assert peaks == after
    finally:
        gc.enable()


def test_backpropagation_through_int8_keeps_activations_but_no_weight():
    net = quantize_(nn.Sequential(nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 100))).to("meta")
    x = torch.zeros(3, 100, device="meta", requires_grad=True)
    with Ledger() as ledger:
        ledger.own(net)
        ledger.book("parameters", x)
        y = net(x).sum()
        assert ledger.live["saved activations"] == 4 * 3 * 100  # ReLU's
        with ledger.phase("backward"):
            y.backward()
    parts = ledger.peaks["backward"].parts
    assert parts["buffers"] == 2 * (100 * 100 + 4 * 100 + 4 * 100)
    assert 4 * 100 * 100 <= parts["temporaries"] < 2 * 4 * 100 * 100  # one weight at a time


def test_checkpointing_saves_the_boundary_only():
    block = nn.Sequential(*(m for _ in range(4) for m in (nn.Linear(50, 50), nn.Sigmoid()))).to("meta")
    x = torch.zeros(1000, 50, device="meta", requires_grad=True)
    saved = []
    for run in (block, lambda x: checkpoint(block, x, use_reentrant=False)):
        with Ledger() as ledger:
            ledger.own(block)
            y = run(x).sum()
            saved.append(ledger.live["saved activations"])
            y.backward()
    assert saved == [5 * 4 * 1000 * 50, 4 * 1000 * 50]  # input and four sigmoids; input


def test_the_copy_that_onednn_makes_of_a_convolutions_weight_is_booked_if_asked_for():
    layer, x = nn.Conv2d(8, 16, 3, device="meta").requires_grad_(False), torch.empty(1, 8, 5, 5, device="meta")
    plain, cpu = Ledger(), Ledger(repacks=True)
    for ledger in (plain, cpu):
        with ledger:
            ledger.own(layer)
            layer(x)
            assert ledger.live["temporaries"] == 4 * 8 * 5 * 5  # what the layer gave is gone, and the copy too
    assert cpu.peak.total - plain.peak.total == 4 * 16 * 8 * 3 * 3


def test_a_ledger_refuses_what_it_cannot_book():
    ledger = Ledger()
    with pytest.raises(RuntimeError, match="inside its context"):
        ledger.own(nn.Linear(1, 1))
    with ledger, pytest.raises(KeyError, match="luggage"):
        ledger.book("luggage", torch.ones(1))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
@pytest.mark.parametrize(
    "run, unseen",
    [
        ("training", 0.02),
        ("attention", 0.02),
        ("encoding", 0.15),  # oneDNN's workspace for a convolution, which a ledger of tensors cannot see
        ("step", 0.1),  # of it the largest part, the copy of the weight, is booked
    ],
)
def test_the_kernel_measures_what_the_ledger_says(run, unseen):
    # glibc keeps freed blocks for itself unless told to hand every large one back
    quiet = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    here = Path(__file__)
    path = os.pathsep.join([str(here.parents[3]), os.environ.get("PYTHONPATH", "")])
    told = subprocess.run(
        [sys.executable, here.with_name("resident.py"), run],
        env=os.environ | quiet | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    sizes = json.loads(told.stdout.splitlines()[-1])
    assert sizes["ledger"] > 200e6
    assert -0.02 < sizes["resident"] / sizes["ledger"] - 1 < unseen


def test_on_cuda_the_allocators_own_peak_stands_beside_the_ledgers(monkeypatch):
    with Ledger() as without:
        torch.ones(10)
    calls = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: calls.append("reset"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: calls.append("asked") or 512)
    with Ledger() as ledger:
        torch.ones(10)
    assert (without.allocated, ledger.allocated, calls) == (None, 512, ["reset", "asked"])
    assert ledger.peak.total == 40
