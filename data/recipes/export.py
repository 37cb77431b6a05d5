"""Write what was trained as standard folders: `python export.py` -> data/tiny-sd and data/judges, in half precision."""

import torch
from artwork import BUILD, HERE
from diffusers import DDIMScheduler, StableDiffusionPipeline
from engine import load_ema
from safetensors.torch import load_file, save_file
from tokenizer import save, tokenizer
from train_judges import classifier, clip, dino
from train_unet import SCHEDULE, Painter, scaling_factor
from train_vae import trained_vae
from transformers import BitImageProcessor, CLIPImageProcessor
from world import SIZE

DATA = HERE.parent


def tiny_sd() -> None:
    autoencoder, painter = trained_vae(), Painter()
    autoencoder.register_to_config(scaling_factor=scaling_factor())
    print("U-Net of step", load_ema("unet", painter))
    pipe = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=painter.text_encoder,
        tokenizer=tokenizer(),
        unet=painter.unet,
        scheduler=DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    devices = {k: v.half().contiguous() for k, v in painter.teller.state_dict().items()}
    save_file(devices, HERE / "devices.safetensors")  # for a training that goes on from here; no part of the pipeline
    pipe.to(torch.float16)
    # transformers loads in the stored precision where diffusers loads in float32: half here would not meet the U-Net's
    pipe.text_encoder.float()
    pipe.save_pretrained(DATA / "tiny-sd", safe_serialization=True)
    # transformers before 5 looks for its old names; later ones read both
    path = DATA / "tiny-sd" / "text_encoder" / "model.safetensors"
    weights = load_file(path)
    save_file({f"text_model.{k.removeprefix('text_model.')}": v for k, v in weights.items()}, path, {"format": "pt"})
    save(pipe.tokenizer, DATA / "tiny-sd" / "tokenizer")


def judges() -> None:
    """Those that this machine trained; the others stay as they are in data/judges."""
    size = {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}
    for name, model in (("clip", clip()), ("dino", dino()), ("classifier", classifier())):
        if not (BUILD / f"{name}.ckpt.safetensors").exists():
            continue
        print(name, "of step", load_ema(name, model))
        model.half().save_pretrained(DATA / "judges" / name)
        (BitImageProcessor if name == "dino" else CLIPImageProcessor)(**size).save_pretrained(DATA / "judges" / name)
        if name == "clip":  # an older CLIP keeps the words it was taught by
            tokenizer().save_pretrained(DATA / "judges" / name)


if __name__ == "__main__":
    tiny_sd()
    judges()
