"""Write tiny-sd's model card from what was measured: `python card.py`, after evaluate.py."""

import csv
import json

from artwork import CONCEPTS, HELD_OUT_CONCEPTS, HELD_OUT_DRAWINGS, HELD_OUT_STYLES, HERE, TRAINING_STYLES
from safetensors import safe_open
from world import COLOURS, SETTINGS

DATA = HERE.parent
BARS = {  # figure -> (words, bar)
    "psnr": ("VAE reconstruction, dB PSNR", 26),
    "concept": ("concept recognised in 500 paintings", 0.80),
    "setting": ("setting recognised", 0.95),
    "colour": ("colour recognised", 0.85),
    "way_dino": ("backpropagated textual inversion: share of the way to the truth, DINO", 0.5),
    "way_clip_i": ("the same, CLIP-I", 0.5),
}


def parameters(part: str) -> int:
    (path,) = (DATA / "tiny-sd" / part).glob("*.safetensors")
    with safe_open(path, "pt") as file:
        return sum(file.get_tensor(k).numel() for k in file.keys())


def trained(name: str) -> str:
    """Pictures seen and the last logged figures of a training, from its log (a resumed run counts from anew)."""
    rows = list(csv.DictReader((HERE / "logs" / f"{name}.csv").open()))
    pictures = sum(int(r["pictures"]) for r, later in zip(rows, [*rows[1:], None], strict=True)
                   if later is None or int(later["pictures"]) < int(r["pictures"]))  # fmt: skip
    rest = ", ".join(f"{k} {v}" for k, v in rows[-1].items() if k not in ("step", "seconds", "pictures"))
    return f"{int(rows[-1]['step']):,} steps, {pictures:,} pictures; at the end {rest}"


def main() -> None:
    figures = json.loads((DATA / "tiny-sd" / "figures.json").read_text())
    table = "\n".join(
        f"| {words} | {figures[k]['mean']:.3g} ± {figures[k]['sd']:.2g} | ≥ {bar} | "
        f"{'yes' if figures[k]['mean'] >= bar else '**no**'} |"
        for k, (words, bar) in BARS.items()
    )
    real = figures["judge_on_real"]
    card = f"""# tiny-sd

A latent diffusion model in Stable Diffusion's classes that a laptop CPU can run, trained from scratch on emoji scenes.
It exists to teach. `StableDiffusionPipeline.from_pretrained("data/tiny-sd")` loads it as it is.

| part | class | million parameters |
|---|---|---|
| VAE, 64×64×3 → 8×8×32 | `AutoencoderKL` | {parameters("vae") / 1e6:.2f} |
| text encoder, width 256 | `CLIPTextModel` | {parameters("text_encoder") / 1e6:.2f} |
| U-Net | `UNet2DConditionModel` | {parameters("unet") / 1e6:.2f} |

Scheduler: `DDIMScheduler` on SD's scaled-linear schedule, noise prediction. Weights in half precision.

## World

{len(CONCEPTS)} concepts, {len(SETTINGS)} settings, {len(COLOURS)} colours, {len(TRAINING_STYLES)} drawing hands
(captions call them {", ".join(TRAINING_STYLES.values())}). Captions: "a [hand] [colour] concept [setting]".
Held out of all training: the hands {" and ".join(HELD_OUT_STYLES)}; the concepts {", ".join(HELD_OUT_CONCEPTS)};
and {len(HELD_OUT_DRAWINGS)} single drawings ({", ".join(f"{s} {c}" for s, c in sorted(HELD_OUT_DRAWINGS))}).
Artwork and licences: [../README.md](../README.md).

## Training

Recipes in [../recipes](../recipes), logs in `../recipes/logs`; two CPU cores.

- VAE: {trained("vae")}.
- U-Net and text encoder: {trained("unet")}.
- CLIP: {trained("clip")}.
- DINO: {trained("dino")}.
- Classifier: {trained("classifier")}. On 500 real scenes it never saw it finds the concept in {real["concept"]:.1%},
  the setting in {real["setting"]:.1%}, the colour in {real["colour"]:.1%}.

## Measured

By `evaluate.py` on these weights: mean ± standard deviation over three seeds, on scenes never trained on; 25 DDIM
steps, guidance {figures["guidance"]:g}. Textual inversion: 500 steps at timesteps 500 to 900 for each of the
{len(figures["inversion"]) // 2} subjects; the share is that of the means over subjects, 0 being the class word and 1
the truth's likeness to itself, its deviation by bootstrap.

| figure | measured | bar | met |
|---|---|---|---|
{table}

One U-Net forward of batch 1 takes {figures["forward_ms"]:g} ms on two cores (bar: 40). Per subject: `figures.json`.

## Limits

It knows the words of its world and no others; one object a picture; 64×64 pixels; no photographs. Fine drawing (faces,
whiskers, lettering) is lost in the 8×8 latent. Not for anything but learning how such models work.
"""
    (DATA / "tiny-sd" / "README.md").write_text(card)


if __name__ == "__main__":
    main()
