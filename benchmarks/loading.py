"""What opening a Stable Diffusion asks for: `python benchmarks/loading.py sd1.5`, or sd2.1, sd2.1-768, sdxl.

The published architecture is filled with random half-precision weights and saved to a folder (2 GB; SDXL: 7 GB), which
is opened by a process of its own. Reported are its peaks of anonymous memory, which no system can take back (Linux
tells): after the imports, while the pipeline is opened, and during a step of the word's descent, one candidate at a
time, beside the ledger's figure for the same step. Seconds are of this machine, today.
"""

import json
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

#: GB of anonymous memory, imports included, that opening may take.
BOUNDS = {"sd1.5": 1.8, "sdxl": 5.5}


def write(name: str, folder: Path) -> None:
    """A pipeline's folder as it is published, with noise for weights."""
    import torch
    from safetensors.torch import save_file

    from zoti.ledger import architecture
    from zoti.model import CONFIGS, clip_tokenizer

    model, published = architecture(name, "float16"), CONFIGS[name]
    second = len(published.texts) > 1
    index = {"_class_name": f"StableDiffusion{'XL' * second}Pipeline", "_diffusers_version": "0.30.0"}
    encoders = zip(("text_encoder", "text_encoder_2"), model.encoders, strict=False)
    for part, network in (("unet", model.unet), ("vae", model.vae), *encoders):
        ours = part in ("unet", "vae")
        network.save_config(folder / part) if ours else network.config.save_pretrained(folder / part)
        index[part] = ["diffusers" if ours else "transformers", type(network).__name__]
        held = {k: t for k, t in network.state_dict().items() if t.is_floating_point()}
        noise = {k: torch.ones(t.shape).half() if "norm" in k else _noise(t.shape) for k, t in held.items()}
        save_file(noise, folder / part / f"{'diffusion_pytorch_model' if ours else 'model'}.fp16.safetensors")
    for part, pad in zip(("tokenizer", "tokenizer_2"), published.pads, strict=False):
        clip_tokenizer(pad).save_pretrained(folder / part)
        index[part] = ["transformers", "CLIPTokenizer"]
    published.scheduler().save_pretrained(folder / "scheduler")
    index["scheduler"] = ["diffusers", published.schedule.__name__]
    (folder / "model_index.json").write_text(json.dumps(index))


def _noise(shape):
    import torch

    fan_in = max(shape[1:].numel(), 1)
    return (torch.randn(shape) / fan_in**0.5).half()


class Watch:
    """The highest anonymous memory of this process, phase by phase."""

    def __init__(self) -> None:
        self.peaks: dict[str, dict[str, float]] = {}
        self._phase: str | None = None
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while True:
            if (phase := self._phase) is not None:
                now = anonymous()
                told = self.peaks.setdefault(phase, {"GB": 0.0})
                told["GB"] = max(told["GB"], now)
            time.sleep(0.003)

    @contextmanager
    def phase(self, name: str):
        began, self._phase = time.perf_counter(), name
        yield
        self._phase = None
        time.sleep(0.01)
        told = self.peaks.setdefault(name, {"GB": 0.0})
        told |= {"seconds": time.perf_counter() - began, "GB": max(told["GB"], anonymous()), "after": anonymous()}


def anonymous() -> float:
    return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024 / 1e9


def measure(folder: Path, name: str, weights: str) -> dict:
    watch = Watch()
    with watch.phase("imports"):
        import torch

        from zoti import PRESETS, ConceptToken, Config, DenoisingLoss, PartialUniform, ZOAdam, invert, load_pipeline
        from zoti.data import Latents
        from zoti.model import trim
    with watch.phase("opening"):
        pipe = load_pipeline(folder, weights, device="cpu")
    pipe.vae = None
    trim()
    preset, size = PRESETS[name], pipe.unet.config.sample_size
    latents = Latents(*torch.rand(2, 1, 4, size, size).unbind())
    token = ConceptToken(pipe, "<it>", "dog")
    puts = PartialUniform(preset.low, preset.high)
    objective = DenoisingLoss(pipe, token, latents, ["a photo of a {}"], puts, max_batch=1)
    with watch.phase("a step"):
        step = next(invert(objective, Config(mu=preset.mu, optimizer=ZOAdam(preset.lr))))
    return {**watch.peaks, "loss": step.loss}


def main(name: str, weights: str = "int8") -> None:
    with TemporaryDirectory(prefix="zoti-") as folder:
        write(name, Path(folder))
        # what is freed goes back at once, and is not counted any more
        told = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        command = [sys.executable, __file__, "measure", folder, name, weights]
        done = subprocess.run(command, env=told, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
    seen = json.loads(done.stdout.splitlines()[-1])
    from zoti.ledger.scenarios import zeroth_order

    print(f"{name} {weights}: {'':10} seconds  anonymous GB  after")
    for phase in ("imports", "opening", "a step"):
        print(f"  {phase:20} {seen[phase]['seconds']:7.1f}  {seen[phase]['GB']:12.2f}  {seen[phase]['after']:5.2f}")
    print(f"  one step on a GPU, by the ledger, fp16: {zeroth_order(name, weights=weights).peak}")
    bound = BOUNDS.get(name)
    if bound is not None and seen["opening"]["GB"] > bound:
        raise SystemExit(f"opening took more than {bound} GB")


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        print(json.dumps(measure(Path(sys.argv[2]), *sys.argv[3:5])))
    else:
        main(*(sys.argv[1:] or ["sd1.5"]))
