"""The memory table: `python benchmarks/memory.py`. About two minutes of one idle core, no GPU, no weights.

Live bytes of tensors at the peak, predicted on the meta device; beside it what the paper read from nvidia-smi on an
RTX 3090 (its Table 1, and the text for SDXL). That reading holds the CUDA context too, about 0.5 GB, and what the
allocator keeps; and its scripts differ (fp32 activations here and there), so the columns are not one experiment.
"""

from pathlib import Path

from zoti.ledger.scenarios import dreambooth, lora, textual_inversion, zeroth_order
from zoti.model import PRESETS

TABLE = [
    ("SD1.5  DreamBooth, fp32", 19.4, dreambooth, {}),
    ("SD1.5  TI, fp32, whole table", 6.75, textual_inversion, {"weights": "float32", "whole_table": True}),
    ("SD1.5  TI, fp32, one vector", None, textual_inversion, {"weights": "float32"}),
    ("SD1.5  QLoRA r = 2, INT8", 7.56, lora, {}),
    ("SD1.5  TI, INT8, whole table", None, textual_inversion, {"whole_table": True}),
    ("         + cached latents", None, textual_inversion, {"whole_table": True, "cached": True}),
    ("           + checkpointing", None, textual_inversion,
     {"whole_table": True, "cached": True, "checkpointing": True}),
    ("SD1.5  TI, INT8, one vector", None, textual_inversion, {}),
    ("         + cached latents", None, textual_inversion, {"cached": True}),
    ("           + checkpointing", None, textual_inversion, {"cached": True, "checkpointing": True}),
    ("SD1.5  ZO, INT8, VAE in the loop", 2.37, zeroth_order, {"cached": False}),
    ("SD1.5  ZO, INT8, cached latents", None, zeroth_order, {}),
    ("         three candidates in one batch", None, zeroth_order, {"max_batch": 3}),
    ("         NF4 linear layers, INT4 convolutions", None, zeroth_order, {"weights": "nf4+int4"}),
    ("SD2.1  ZO, INT8, cached latents", None, zeroth_order, {"name": "sd2.1"}),
    ("SDXL   ZO, INT8, VAE in the loop", 5, zeroth_order, {"name": "sdxl", "cached": False}),
    ("SDXL   ZO, INT8, cached latents", None, zeroth_order, {"name": "sdxl"}),
]  # fmt: skip
TINY = [
    ("tiny-sd  TI, fp32, one vector", None, textual_inversion, {"name": "tiny-sd", "weights": "float32"}),
    ("tiny-sd  ZO, INT8, cached latents", None, zeroth_order, {"name": "tiny-sd"}),
]


if __name__ == "__main__":
    print(f"{'':40}  live GB  paper GB  at the peak")
    for label, paper, scenario, options in TABLE + (TINY if Path(PRESETS["tiny-sd"].source).exists() else []):
        peak = scenario(**options).peak
        print(f"{label:40}  {peak.total / 1e9:7.3f}  {paper or '':>8}  {peak}", flush=True)
