"""What a Stable Diffusion asks of a computer without a GPU: `python benchmarks/loading.py sd1.5`, or sd2.1, sdxl, ...

The published architecture is filled with noise in half precision and saved to a folder (2 GB; SDXL: 7 GB), which is
opened by a process of its own. There a word is learned by a step of one direction, its two candidates one after the
other; it is saved and read by stock diffusers, for SDXL into both encoders; and the run goes on, once straight and once
resumed from its file, to the same bits.

Told are the peaks of anonymous memory, which no system can take back (Linux counts it), and what the step has grown by
since the imports, beside the ledger's figure for it in float32: they may differ by a tenth. Seconds are processor time,
which other work on the machine hardly changes; with one thread a clock shows as many, or more.
"""

import datetime
import json
import math
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

#: GB of anonymous memory, imports included, that opening may take.
BOUNDS = {"sd1.5": 1.8, "sdxl": 5.5}
#: The share by which the memory of a step may differ from the ledger's figure.
OFF = 0.1


def write(name: str, folder: Path) -> None:
    """A pipeline's folder as it is published, with noise for weights."""
    import torch
    from safetensors.torch import save_file

    from zoti.ledger import architecture
    from zoti.model import CONFIGS, clip_tokenizer, trim

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
    del noise, held
    trim()


def _noise(shape):
    """Numbers of a layer's usual size, from a stock of a million: three billion of their own would take minutes."""
    import torch

    stock = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0)) / max(shape[1:].numel(), 1) ** 0.5
    return stock.half().repeat(shape.numel() // len(stock) + 1)[: shape.numel()].view(shape).clone()


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
        began, self._phase = time.process_time(), name
        yield
        self._phase = None
        time.sleep(0.01)
        told = self.peaks.setdefault(name, {"GB": 0.0})
        told |= {"seconds": time.process_time() - began, "GB": max(told["GB"], anonymous()), "after": anonymous()}
        print(f"{name:10} {told['seconds']:7.1f} s  {told['GB']:6.2f} GB, {told['after']:.2f} after", flush=True)


def anonymous() -> float:
    return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024 / 1e9


def measure(folder: Path, name: str, weights: str) -> None:
    """Told by this process of itself, phase by phase. name: of a preset, whose numbers a step takes."""
    watch = Watch()
    with watch.phase("imports"):
        import torch

        from zoti import PRESETS, ConceptToken, Config, DenoisingLoss, PartialUniform, ZOAdam, invert, load_pipeline
        from zoti.data import Latents
        from zoti.ledger.scenarios import zeroth_order
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
    config = Config(n=1, mu=preset.mu, optimizer=ZOAdam(preset.lr))
    run = invert(objective, config, checkpoint=folder / "run.safetensors", every=1)
    with watch.phase("a step"):
        first = next(run)
    grown = watch.peaks["a step"]["GB"] - watch.peaks["imports"]["after"]
    booked = zeroth_order(str(folder), weights, dtype="float32").peak
    off = grown * 1e9 / booked.total - 1
    print(f"the step has grown by {grown:.3f} GB ({off:+.1%}); by the ledger {booked}", flush=True)
    stock_reads(token, first.theta, folder)
    print("stock diffusers reads the word", flush=True)
    copy = shutil.copy(folder / "run.safetensors", folder / "copy.safetensors")
    straight, resumed = next(run), next(invert(objective, config, checkpoint=copy))
    assert resumed.index == 2 and torch.equal(resumed.theta, straight.theta), "a resumed run has other bits"
    assert not torch.equal(straight.theta, first.theta), "a step does nothing"
    print("resumed, it comes to the same bits")
    if watch.peaks["opening"]["GB"] > BOUNDS.get(name, math.inf):
        raise SystemExit(f"opening took more than {BOUNDS[name]} GB")
    if abs(off) > OFF:
        raise SystemExit(f"the step and the ledger differ by more than {OFF:.0%}")


def stock_reads(token, theta, folder: Path) -> None:
    """The word is saved, and stock diffusers finds it as it was learned, in each encoder."""
    import torch
    from safetensors.torch import load_file

    pipe, file = token.pipe, token.save(theta, folder / "word")
    stock = type(pipe).from_pretrained(folder, variant="fp16", unet=None, vae=None)
    encoders = [(stock.tokenizer, stock.text_encoder)]
    if hasattr(stock, "text_encoder_2"):
        encoders.append((stock.tokenizer_2, stock.text_encoder_2))
        for part, (tokenizer, encoder) in zip(("clip_l", "clip_g"), encoders, strict=True):
            vectors = load_file(file)[part]
            stock.load_textual_inversion(vectors, token=token.word, tokenizer=tokenizer, text_encoder=encoder)
    else:
        stock.load_textual_inversion(str(file))
    rows = [e.get_input_embeddings().weight[t.convert_tokens_to_ids(token.word)] for t, e in encoders]
    assert torch.equal(torch.cat(rows), theta[0].to(rows[0].dtype)), "stock diffusers has another word"
    with torch.no_grad():
        options = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
        word, noun = (stock.encode_prompt(f"a {it}", **options)[0] for it in (token.word, "dog"))
    assert not torch.equal(word, noun), "stock diffusers does not hear the word"


def main(name: str = "sd1.5", weights: str = "int8") -> None:
    with TemporaryDirectory(prefix="zoti-") as folder:
        write(name, Path(folder))
        print(f"{name} {weights}, {datetime.date.today()}", flush=True)
        # what is freed goes back at once, and is not counted any more
        told = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        sys.exit(subprocess.run([sys.executable, __file__, "measure", folder, name, weights], env=told).returncode)


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(Path(sys.argv[2]), *sys.argv[3:5])
    else:
        main(*sys.argv[1:])
