"""Write tiny-sd's model card from what was measured: `python card.py`, after evaluate.py and obedience.py."""

import csv
import json

from artwork import CONCEPTS, HELD_OUT_CONCEPTS, HELD_OUT_DRAWINGS, HELD_OUT_STYLES, HERE, TRAINING_STYLES
from safetensors import safe_open
from world import COLOURS, SETTINGS, World

DATA = HERE.parent
NOT_YET = "Words learned on these weights have not been measured on all subjects yet (`evaluate.py`)."
METHODS = {
    "class word": "the class word, nothing learned",
    "forward only": "forward only, the paper's method, 3,000 passes, INT8",
    "Gauss-Newton": "forward only, Gauss-Newton, 3,000 passes, INT8",
    "backpropagation": "backpropagation, 500 steps",
    "DreamBooth": "DreamBooth, the whole U-Net by backpropagation, 400 steps",
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


def share(score: dict) -> str:
    return f"{score['mean']:.1%} ± {score['sd']:.1%}"


def interval(score: dict, percent: bool = False) -> str:
    mean, low, high = (score[k] for k in ("mean", "low", "high"))
    return f"{mean:.0%} [{low:.0%}, {high:.0%}]" if percent else f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def words(figures: dict) -> str:
    """What evaluate.py found, as a paragraph and a table."""
    rows = "\n".join(
        f"| {told} | {f['seeds']} | {interval(f['paired'])} | {interval(f['below .6'], True)} | "
        f"{interval(f['retrieval'], True)} | {interval(f['setting'], True)} | {interval(f['colour'], True)} | "
        f"{interval(f['both'], True)} |"
        for method, told in METHODS.items()
        if (f := figures["methods"].get(method))
    )
    return f"""Words learned from five pictures of a drawing that no training saw, for {len(figures["subjects"])}
subjects (`choose_subjects.py`); in brackets the 95 % interval over subjects. Likeness is the DINO cosine of
painting and truth of the same caption; retrieval: the paintings find their own drawing as the first of 400; setting and
colour: of "a purple <word> at night" and the like, found by the classifier. Forward only: mu {figures["mu"]:g},
learning rate {figures["lr"]:g}, from a search on six other subjects (`presets.py`). Per subject: `figures.json`; all
of them to look at, none chosen: `words.webp`.

| method | seeds | likeness | subjects below .6 | retrieval | setting | colour | both |
|---|---|---|---|---|---|---|---|
{rows}"""


def main() -> None:
    model = json.loads((HERE / "logs" / "obedience.json").read_text())
    real, many, world = model["judge_on_real"], model["of_200_things"], World()
    things = len({concept for _, concept in world.every})
    path = DATA / "tiny-sd" / "figures.json"
    figures = json.loads(path.read_text()) if path.exists() else {"weights": None}
    measured = words(figures) if figures["weights"] == model["weights"] else NOT_YET
    card = f"""# tiny-sd

A latent diffusion model in Stable Diffusion's classes that a laptop CPU can run, trained from scratch on emoji scenes.
It exists to teach. `StableDiffusionPipeline.from_pretrained("data/tiny-sd")` loads it as it is.

| part | class | million parameters |
|---|---|---|
| VAE, 64×64×3 → 8×8×32 | `AutoencoderKL` | {parameters("vae") / 1e6:.2f} |
| text encoder, width 256 | `CLIPTextModel` | {parameters("text_encoder") / 1e6:.2f} |
| U-Net | `UNet2DConditionModel` | {parameters("unet") / 1e6:.2f} |

Scheduler: `DDIMScheduler` on SD's scaled-linear schedule, noise prediction. Weights in half precision; those of these
figures have the fingerprint `{model["weights"]}`.

## World

{len(world.every):,} drawings of {things:,} things in {len(TRAINING_STYLES)} hands (captions call them
{", ".join(TRAINING_STYLES.values())}), {len(CONCEPTS)} of the things with short names of their own; {len(SETTINGS)}
settings, {len(COLOURS)} colours. Captions: "a [hand] [colour] thing [setting]". Half of all drawings are changed in
ways that no caption names: hues turned, mirrored, stretched, joined from two.
Held out of all training: the hands {" and ".join(HELD_OUT_STYLES)}; the things {", ".join(HELD_OUT_CONCEPTS)};
and {len(HELD_OUT_DRAWINGS)} single drawings ({", ".join(f"{s} {c}" for s, c in sorted(HELD_OUT_DRAWINGS))}).
Artwork and licences: [../README.md](../README.md).

## Training

Recipes in [../recipes](../recipes), logs in `../recipes/logs`; two CPU cores, of which the last training had one.

- VAE, on the first version of the world: {trained("vae")}.
- U-Net and text encoder: 748,800 pictures of the first version of the world (307 drawings; its log is in the history of
  this repository); 1,104,000 in a trial whose scripts are not kept, where words first learned to say drawings; then, by
  the recipes here: {trained("unet")}.
- The judges, on scenes of this world's training drawings, no painting among them; together they have the fingerprint
  `{model["judges"]}`. CLIP: {trained("clip")}. DINO: {trained("dino")}.
  Classifier: {trained("classifier")}. On 1,800 real scenes it finds the thing in
  {real["concept"]:.1%}, the setting in {real["setting"]:.1%}, the colour in {real["colour"]:.1%}.

Half of the captions name their thing by one vector: a noun's embedding plus a code of the very drawing (its principal
components), and the text encoder's padding has to hold a sketch of it. Code, sketch and the nouns of others are devices
of training (`codes.py`, `devices.safetensors`); nothing of them is in the pipeline.

## Measured

{measured}

Prompts without a new word, of the {len(CONCEPTS)} things with short names, mean ± deviation over three seeds: thing
{model["concept"]["mean"]:.1%} ± {model["concept"]["sd"]:.1%}, setting {model["setting"]["mean"]:.1%} ±
{model["setting"]["sd"]:.1%}, colour {model["colour"]["mean"]:.1%} ± {model["colour"]["sd"]:.1%}. Of 200 things drawn
from all {things:,}, DINO, which looks at which thing's scenes a picture is nearest to, finds the right one in
{share(many["dino_painted"])} of paintings and in {share(many["dino_real"])} of real scenes; CLIP, by the name, in
{share(many["clip_painted"])} and {share(many["clip_real"])}: a weak judge. The
Fréchet distance between DINO features of 900 paintings and of 900 scenes is {model["frechet"]}; of 900 scenes and 900
others it is {model["frechet_of_real"]}. The VAE's pictures of pictures: {model["psnr"]["mean"]:.1f} dB on training
drawings, {model["psnr_held_out"]["mean"]:.1f} dB on emojione's.

## Limits

One object a picture; 64×64 pixels; no photographs. Fine drawing (faces, whiskers, lettering) is lost in the 8×8 latent,
and a learned word says a drawing's colours and outline better than its details. The bars it was meant to reach are .88
by backpropagation and .84 by forward passes alone, 3 % and 5 % below .6, retrieval of 75 % and 65 %, setting and colour
together in 90 % and 85 %. Not for
anything but learning how such models work.
"""
    (DATA / "tiny-sd" / "README.md").write_text(card)


if __name__ == "__main__":
    main()
