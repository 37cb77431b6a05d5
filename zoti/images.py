"""Pictures as a viewer shows them: read from a folder, upright and in RGB, no larger than needed, cut to squares."""

import io
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps

with suppress(ImportError):  # pip install zoti[photos]
    import pillow_heif

    pillow_heif.register_heif_opener()

#: What the names of pictures end in that `load_images` reads; capitals or small letters are the same to it. HEIC needs
#: pillow-heif.
EXTENSIONS = {
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff",
    ".heic", ".heif", ".hif", ".avif", ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".ico", ".tga", ".qoi",
    ".psd",
}  # fmt: skip
#: What those end in that a viewer may show and Pillow cannot read; of a camera's raw file it would see a stamp.
FOREIGN = {
    ".svg", ".jxl", ".exr", ".hdr", ".xcf", ".kra", ".eps", ".ai", ".pdf",
    ".raw", ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".srw", ".raf", ".orf", ".rw2",
    ".rwl", ".pef", ".3fr", ".iiq", ".x3f", ".kdc", ".dcr", ".erf", ".mrw", ".mef", ".mos",
}  # fmt: skip
#: Where `square` may cut.
CROPS = ("centre", "top", "pad")


def load_images(folder: str | Path, side: int = 1024) -> list[Image.Image]:
    """Every picture of a folder in the order of their names (1, 2, 10), as RGB, reduced while it is read.

    side: how many pixels the shorter side may have; SDXL sees 1024. Smaller pictures stay as they are.

    A picture is turned upright if its camera noted how, lies on white where it is transparent, and is the first frame
    of an animation. Folders, hidden files and what is no picture are passed over; a picture that cannot be read never
    is.

    Raises FileNotFoundError for a missing folder, ValueError for one without pictures or with one that cannot be read.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     Image.new("CMYK", (64, 48)).save(Path(folder) / "10.jpg")
    ...     Image.new("P", (4000, 2000)).save(Path(folder) / "9.gif")
    ...     [(image.mode, image.size) for image in load_images(folder, side=512)]
    [('RGB', (1024, 512)), ('RGB', (64, 48))]
    >>> ".heic" in EXTENSIONS, ".dng" in FOREIGN
    (True, True)
    """
    folder = Path(folder)
    if side < 1:
        raise ValueError(f"side = {side}: a picture has at least one pixel; a model's own size is a good number")
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; put three to five pictures of your subject there")
    images, troubles = [], []
    # macOS leaves a hidden ._photo.jpg, which is no picture, beside every photo.jpg it copies
    for path in sorted((p for p in folder.iterdir() if not p.name.startswith(".") and _is_picture(p)), key=_natural):
        try:
            with Image.open(path) as image:
                if path.suffix.lower() in FOREIGN:
                    raise ValueError(f"what Pillow sees there is no more than a preview, {image.size}")
                image.draft(None, (2 * side, 2 * side))  # a JPEG is decoded at a half, quarter or eighth of its size
                images.append(_reduced(_shown(image), side))
        except Exception as error:  # Pillow passes on whatever its readers stumble over, even struct.error
            heic = path.suffix.lower() in {".heic", ".heif", ".hif"} and "HEIF" not in Image.OPEN
            troubles.append(f"{path.name} ({'pip install pillow-heif' if heic else error})")
    if troubles:
        more = f" and {len(troubles) - 5} more" if len(troubles) > 5 else ""
        raise ValueError(
            f"cannot read {', '.join(troubles[:5])}{more} in {folder} as a picture; remove it or save it again as PNG"
        )
    if not images:
        raise ValueError(f"no images in {folder}; put three to five JPEG, PNG or HEIC files there")
    return images


def shown(images: Sequence[Image.Image]) -> list[Image.Image]:
    """Pictures as a viewer shows them, in RGB: upright if their cameras noted how, white where they are transparent.

    Takes every mode of Pillow, and heeds the profile of a picture's colours. Numbers of more than eight bits are scaled
    down to them, real ones as if they went from 0 to 1 if none is larger.

    Raises ValueError for what is no picture, or one that cannot be read.

    >>> cut, bright = Image.new("LA", (2, 2), (0, 0)), Image.new("I;16", (2, 2), 65535)
    >>> [image.getpixel((0, 0)) for image in shown([cut, bright])]
    [(255, 255, 255), (255, 255, 255)]
    """
    if not isinstance(images, (list, tuple)):
        raise ValueError(f"a list of pictures is needed, not {type(images).__name__}; for a single one, [picture]")
    made = []
    for n, image in enumerate(images, 1):
        if not isinstance(image, Image.Image):
            raise ValueError(f"picture {n} is {type(image).__name__}; give Pillow's images, as load_images reads them")
        try:
            made.append(_shown(image))
        except Exception as error:  # a file that was closed or is damaged is noticed only now
            raise ValueError(f"cannot read picture {n}, {image!r}: {error}; open it anew") from error
    return made


def square(image: Image.Image, size: int, crop: str = "centre") -> Image.Image:
    """The picture as a model sees it, size x size pixels.

    crop: 'centre' keeps the middle of a picture that is no square; 'top' the upper end of a tall one, where a portrait
    has its head; 'pad' all of it, between white bars, which a word may learn.

    Raises ValueError for another `crop`, in which case it names these.

    >>> tall = Image.new("RGB", (10, 30), "red")
    >>> tall.paste("blue", (0, 0, 10, 10))
    >>> [square(tall, 6, crop).getpixel((3, 0))[2] > 128 for crop in CROPS]  # is blue
    [False, True, True]
    """
    if crop not in CROPS:
        raise ValueError(f"crop={crop!r} is unknown; a picture is cut at {', '.join(map(repr, CROPS))}")
    if crop == "pad":
        # as ImageOps.pad, which leaves nothing, or raises, where a picture becomes thinner than a pixel
        inner = [max(1, round(length / max(image.size) * size)) for length in image.size]
        bars = Image.new(image.mode, (size, size), "white")
        place = [round((size - length) / 2) for length in inner]
        bars.paste(image.resize((inner[0], inner[1]), Image.Resampling.LANCZOS), (place[0], place[1]))
        return bars
    return ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS, centering=(0.5, 0 if crop == "top" else 0.5))


def _is_picture(path: Path) -> bool:
    if path.is_dir():
        return False
    if path.suffix.lower() in EXTENSIONS | FOREIGN:
        return True
    try:  # a download may have lost its ending
        with Image.open(path, formats=[kind for kind in ("PNG", "JPEG", "WEBP", "GIF", "HEIF") if kind in Image.OPEN]):
            return True
    except Exception:
        return False


def _natural(path: Path) -> tuple[list[str | int], str]:
    """What files are sorted by: text between numbers, and numbers as such."""
    parts = re.split(r"(\d+)", path.name.casefold())
    return [int(part) if part.isdecimal() else part for part in parts], path.name


def _reduced(image: Image.Image, side: int) -> Image.Image:
    """The picture with a shorter side of so many pixels, if it has more."""
    share = side / min(image.size)
    if share >= 1:
        return image
    width, height = (max(side, round(share * length)) for length in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _shown(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _eight_bits(image)
    profile = image.info.pop("icc_profile", None)
    if image.mode == "LAB":
        image = _in_srgb(image, ImageCms.createProfile("LAB"))
    elif profile and image.mode in ("RGB", "RGBA", "CMYK"):  # phones' colours are those of Display P3
        with suppress(ImageCms.PyCMSError, OSError):  # a viewer, too, passes over one that is damaged
            image = _in_srgb(image, ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    if image.mode == "La":
        image = image.convert("LA")
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _in_srgb(image: Image.Image, profile: Any) -> Image.Image:
    """The picture in the colours of a screen, sRGB."""
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    turned = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), image.mode, mode).apply(image)
    turned.info.pop("icc_profile", None)
    return turned


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits, or of real numbers, in eight. Pillow would cut off all above 255."""
    grey = np.asarray(image).astype(np.float64)
    most = grey.max(where=np.isfinite(grey), initial=0)
    # what white is: a 16-bit picture may be dark, of the others one can only tell by the numbers
    whites = {"I": [256, 65536, most], "F": [1, 256, 65536, most]}.get(image.mode, [65536])
    white = next(white for white in whites if most <= white)
    return Image.fromarray((np.nan_to_num(grey, posinf=white, neginf=0) * (256 / white)).clip(0, 255).astype(np.uint8))
