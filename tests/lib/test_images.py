"""Pictures as a viewer shows them: every format, every mode, in order, upright, no larger than needed."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

import zoti.images
from tests.helpers import noise_images
from zoti import cache_latents, load_images
from zoti.images import CROPS, EXTENSIONS, FOREIGN, shown, square
from zoti.metrics import Metrics


def sideways(orientation: int = 6) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.fixture
def photo() -> Image.Image:
    """Blue above red, twice as wide as high."""
    made = Image.new("RGB", (64, 32), "red")
    made.paste("blue", (0, 0, 64, 16))
    return made


def test_bad_pictures(tmp_path, pipe):
    with pytest.raises(FileNotFoundError, match="no folder"):
        load_images(tmp_path / "absent")
    with pytest.raises(ValueError, match="no images"):
        load_images(tmp_path)
    noise_images(1)[0].save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="side = 0"):
        load_images(tmp_path, side=0)
    (tmp_path / "._a.png").write_bytes(b"\x00\x05\x16\x07")
    assert [i.size for i in load_images(tmp_path)] == [(24, 20)]
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"b\.png"):
        load_images(tmp_path)
    image, exif, told = noise_images(1)[0], sideways(), PngImagePlugin.PngInfo()
    exif[0x010F] = "maker" * 5
    image.save(tmp_path / "b.png", "jpeg", exif=exif)
    damaged = (tmp_path / "b.png").read_bytes().replace(b"\x01\x0f\x00\x02", b"\x01\x00\x00\x02")  # a width in letters
    told.add_text("essay", "x" * 2**21, zip=True)
    image.save(tmp_path / "b.png", pnginfo=told)
    for picture in (damaged, (tmp_path / "b.png").read_bytes(), b""):
        (tmp_path / "b.png").write_bytes(picture)
        with pytest.raises(ValueError, match=r"cannot read b\.png .* as a picture; remove it"):
            load_images(tmp_path)
    for i in range(8):
        (tmp_path / f"c{i}.jpg").touch()
    with pytest.raises(ValueError, match=r"b\.png .*, c0\.jpg .*, c3\.jpg .* and 4 more in"):
        load_images(tmp_path)


def test_what_is_no_list_of_pictures_is_refused_by_every_door(pipe, tmp_path):
    noise_images(1)[0].save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as closed:
        pass
    wrong = {
        "no images": [],
        "a list of pictures is needed, not Image; for a single one": Image.new("RGB", (8, 8)),
        "picture 2 is str; give Pillow's images, as load_images reads them": [*noise_images(1), "a.png"],
        "picture 1 is ndarray": [np.zeros((8, 8, 3))],
        "cannot read picture 1, .*open it anew": [closed],
    }
    for message, images in wrong.items():
        with pytest.raises(ValueError, match=message):
            cache_latents(pipe, images)


def test_a_phones_folder_is_read_whole(tmp_path, photo):
    for i in range(5):
        photo.save(tmp_path / f"IMG_{i}.HEIC", exif=sideways().tobytes() if i else None)
        (tmp_path / f"IMG_{i}.MOV").write_bytes(b"\0\0\0\x14ftypqt  ")  # a live photo's second half
    photo.save(tmp_path / "screen.PNG")
    assert [image.size for image in load_images(tmp_path)] == [(64, 32), *[(32, 64)] * 4, (64, 32)]


@pytest.mark.parametrize("ending", sorted(EXTENSIONS - {".mpo", ".psd"}))  # which Pillow cannot write
def test_every_format_is_read_upright_and_in_its_colours(tmp_path, photo, ending):
    paths = [tmp_path / f"a{ending}", tmp_path / f"b{ending.upper()}"]
    grey = ending in {".pgm", ".pbm"}
    wanted = photo.convert("L" if ending == ".pgm" else "1") if grey else photo
    for path in paths:
        wanted.save(path, **({"format": "PNG"} if ending == ".apng" else {}))
    for image in load_images(tmp_path):
        assert image.mode == "RGB" and image.size == ((32, 16) if ending == ".ico" else (64, 32))
        for at in ((5, 3), (20, image.height - 3)):
            expected = wanted.resize(image.size).convert("RGB").getpixel(at)
            assert max(abs(a - b) for a, b in zip(image.getpixel(at), expected, strict=True)) < 8


@pytest.mark.parametrize("ending", sorted(FOREIGN))
def test_pictures_that_pillow_cannot_read_are_named(tmp_path, photo, ending):
    photo.save(tmp_path / "a.png")
    photo.save(tmp_path / f"raw{ending.upper()}", "TIFF")  # as a camera's raw file holds a stamp
    with pytest.raises(ValueError, match=rf"cannot read raw{ending.upper()} \(what Pillow sees there"):
        load_images(tmp_path)
    (tmp_path / f"raw{ending.upper()}").write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    with pytest.raises(ValueError, match=f"cannot read raw{ending.upper()}"):
        load_images(tmp_path)


def test_heic_without_its_reader_is_named_with_the_remedy(tmp_path, photo, monkeypatch):
    photo.save(tmp_path / "a.heic")
    photo.save(tmp_path / "b.png")
    monkeypatch.delitem(Image.OPEN, "HEIF")
    with pytest.raises(ValueError, match=r"a\.heic \(pip install pillow-heif\)"):
        load_images(tmp_path)


def test_what_is_no_picture_is_passed_over_and_pictures_are_known_without_an_ending(tmp_path, photo):
    for name in ("a.txt", "captions.json", "Thumbs.db", "clip.mp4", "BM", "word.safetensors", "README"):
        (tmp_path / name).write_bytes(b"BM is no bitmap, and this no picture")
    (tmp_path / "b.png").mkdir()
    for name, kind in (("c", "JPEG"), ("d.jpg (1)", "PNG"), ("e.download", "HEIF")):
        photo.save(tmp_path / name, kind)
    assert [image.size for image in load_images(tmp_path)] == [(64, 32)] * 3
    (tmp_path / "f.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(ValueError, match=r"cannot read f\.jpg"):
        load_images(tmp_path)


def test_pictures_come_in_the_order_people_mean(tmp_path):
    names = ["1.png", "2.png", "02b.png", "9.gif", "10.png", "a1.png", "A2.png", "a10.png", "IMG 9 (2).png", "x٣.png"]
    for i, name in enumerate(names):
        Image.new("RGB", (i + 1, 50)).save(tmp_path / name)
    assert [image.width for image in load_images(tmp_path)] == list(range(1, len(names) + 1))


#: A colour in every mode of Pillow, and what of it a viewer shows.
MODES = {
    "1": (1, (255, 255, 255)),
    "L": (100, (100, 100, 100)),
    "RGB": ((200, 100, 50), (200, 100, 50)),
    "RGBA": ((200, 100, 50, 0), (255, 255, 255)),
    "RGBX": ((200, 100, 50, 0), (200, 100, 50)),
    "RGBa": ((0, 0, 0, 0), (255, 255, 255)),
    "LA": ((100, 0), (255, 255, 255)),
    "La": ((100, 255), (100, 100, 100)),
    "CMYK": ((0, 255, 255, 0), (255, 0, 0)),
    "YCbCr": ((100, 128, 128), (100, 100, 100)),
    "LAB": ((255, 128, 128), (254, 255, 254)),
    "HSV": ((0, 255, 255), (255, 0, 0)),
    "I": (51400, (200, 200, 200)),
    "I;16": (51400, (200, 200, 200)),
    "I;16B": (51400, (200, 200, 200)),
    "I;16L": (51400, (200, 200, 200)),
    "I;16N": (51400, (200, 200, 200)),
    "F": (0.785, (200, 200, 200)),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_shown_by_every_door(pipe, mode):
    colour, expected = MODES[mode]
    image = Image.new(mode, (16, 16), colour)
    assert shown([image])[0].getpixel((3, 3)) == expected
    same = Image.new("RGB", (16, 16), expected)
    assert torch.equal(cache_latents(pipe, [image]).mean, cache_latents(pipe, [same]).mean)


@pytest.mark.parametrize("mode", ["P", "PA"])
def test_palettes_are_shown(mode):
    cut = Image.new("RGBA", (16, 16), (200, 10, 10, 0))
    cut.putpixel((3, 4), (0, 0, 255, 255))
    image = cut.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE)
    if mode == "PA":
        image = image.convert("PA")
        image.putalpha(cut.getchannel("A"))
    else:
        image.info["transparency"] = image.getpixel((0, 0))
    assert [shown([image])[0].getpixel(at) for at in ((0, 0), (3, 4))] == [(255, 255, 255), (0, 0, 255)]


def test_numbers_of_more_than_eight_bits_are_scaled():
    shades = torch.arange(0, 65536, 256, dtype=torch.int32).reshape(16, 16).numpy()
    for scaled in (
        shades.astype("uint16"),
        shades,
        shades / 256,
        (shades / 65536),
        shades * 3,
        shades.astype("float32"),
    ):
        (image,) = shown([Image.fromarray(np.asarray(scaled, scaled.dtype if scaled.dtype.kind != "f" else "f4"))])
        assert np.abs(np.asarray(image)[..., 1].ravel().astype(int) - np.arange(256)).max() <= 1
    dark = shown([Image.fromarray((shades // 256).astype("uint16"))])[0]
    assert np.asarray(dark).max() == 0
    odd = np.array([[np.nan, np.inf, -np.inf, 0.5]], "f4")
    assert shown([Image.fromarray(odd)])[0].getchannel("R").tobytes() == bytes([0, 255, 0, 128])


def test_pictures_are_read_as_a_viewer_shows_them(tmp_path, pipe):
    shades = torch.arange(0, 65536, 256, dtype=torch.int32).reshape(16, 16).numpy().astype("uint16")
    cut = Image.new("RGBA", (16, 16), (200, 10, 10, 0))  # red, if the transparency were forgotten
    cut.putpixel((3, 4), (0, 0, 255, 255))
    palette = cut.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE)
    ink, wide, frame = (
        Image.new("CMYK", (16, 16), (0, 255, 255, 0)),
        noise_images(1)[0],
        Image.new("RGB", (16, 16), "red"),
    )
    Image.fromarray(shades).save(tmp_path / "0 grey.png")
    cut.save(tmp_path / "1 cut.png")
    palette.save(tmp_path / "2 palette.png", transparency=palette.getpixel((0, 0)))
    ink.save(tmp_path / "3 ink.jpg")
    wide.save(tmp_path / "4 wide.jpg", exif=sideways())
    frame.save(tmp_path / "5 frames.webp", save_all=True, append_images=[cut.convert("RGB")], lossless=True)
    frame.save(tmp_path / "6 frames.gif", save_all=True, append_images=[cut.convert("RGB")])
    frame.save(tmp_path / "7 pages.tif", save_all=True, append_images=[cut.convert("RGB")])
    Image.new("RGB", (1, 1), "red").save(tmp_path / "8 \u65e5\u672c.PNG")
    images = load_images(tmp_path)
    assert {image.mode for image in images} == {"RGB"}
    grey, cut_out, indexed, printed, turned, *first = images
    assert list(grey.getchannel("G").tobytes()) == list(range(256))
    for image in (cut_out, indexed):
        assert [image.getpixel(at) for at in ((0, 0), (3, 4))] == [(255, 255, 255), (0, 0, 255)]
    assert turned.size == wide.size[::-1]
    assert all(image.getpixel((0, 0)) == (255, 0, 0) for image in (printed, *first))
    assert torch.equal(cache_latents(pipe, [cut]).mean, cache_latents(pipe, [cut_out]).mean)
    assert torch.isfinite(cache_latents(pipe, images).mean).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp", "heic", "avif"])
def test_a_picture_is_turned_upright_by_whichever_door_it_comes(pipe, tmp_path, orientation, kind):
    wide = noise_images(1)[0]
    wide.save(tmp_path / f"a.{kind}", exif=sideways(orientation).tobytes())
    (read,) = load_images(tmp_path)
    assert read.size == (wide.size if orientation < 5 else wide.size[::-1])
    with Image.open(tmp_path / f"a.{kind}") as lazy:
        by_hand = cache_latents(pipe, [lazy])
    assert torch.equal(by_hand.mean, cache_latents(pipe, [read]).mean)
    assert torch.equal(cache_latents(pipe, shown([read])).mean, by_hand.mean)  # and not once more


def swapped() -> bytes:
    """A profile of colours in which red is green and green is red."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return srgb.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")


@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp", "heic", "avif"])
def test_the_profile_of_a_pictures_colours_is_heeded_by_every_door(pipe, tmp_path, kind):
    Image.new("RGB", (16, 16), (250, 0, 0)).save(tmp_path / f"a.{kind}", icc_profile=swapped())
    (read,) = load_images(tmp_path)
    assert read.getpixel((3, 3))[1] > 240 and max(read.getpixel((3, 3))[::2]) < 12
    with Image.open(tmp_path / f"a.{kind}") as lazy:
        assert lazy.info["icc_profile"]
        by_hand = cache_latents(pipe, [lazy])
    assert torch.equal(by_hand.mean, cache_latents(pipe, [read]).mean)
    assert torch.equal(by_hand.mean, cache_latents(pipe, shown([read])).mean)  # and not once more


def test_profiles_keep_what_is_transparent_and_damaged_ones_are_passed_over():
    cut = Image.new("RGBA", (16, 16), (250, 0, 0, 0))
    cut.putpixel((3, 4), (250, 0, 0, 255))
    cut.info["icc_profile"] = swapped()
    (seen,) = shown([cut])
    assert seen.getpixel((0, 0)) == (255, 255, 255) and seen.getpixel((3, 4))[1] > 240
    assert cut.info["icc_profile"] == swapped()  # the reader's picture is as it was
    for profile in (b"", b"no profile", swapped()[:200]):
        cut.info["icc_profile"] = profile
        assert shown([cut])[0].getpixel((3, 4)) == (250, 0, 0)


def test_judges_see_pictures_as_a_viewer_shows_them(tmp_path):
    metrics, wide = Metrics.load(), noise_images(1)[0]
    wide.save(tmp_path / "a.png", exif=sideways())
    cut = Image.new("RGBA", (32, 32), (200, 10, 10, 0))
    with Image.open(tmp_path / "a.png") as lazy:
        for features in (metrics.clip_features, metrics.dino_features):
            assert torch.equal(features([lazy, cut]), features(shown([lazy, cut])))
            assert torch.equal(features([cut]), features([Image.new("RGB", (32, 32), "white")]))


def test_photos_are_reduced_while_they_are_read(tmp_path, monkeypatch):
    large = Image.new("RGB", (4000, 3000), "teal")
    large.save(tmp_path / "1.jpg", exif=sideways())
    large.convert("P").save(tmp_path / "2.png")
    large.resize((3000, 200)).save(tmp_path / "3.png")
    decoded = []
    monkeypatch.setattr(
        zoti.images, "_shown", lambda image, f=zoti.images._shown: decoded.append(image.size) or f(image)
    )
    assert [image.size for image in load_images(tmp_path)] == [(1024, 1365), (1365, 1024), (3000, 200)]
    assert [image.size for image in load_images(tmp_path, 64)] == [(64, 85), (85, 64), (960, 64)]
    assert decoded[3] == (500, 375)  # never seen at its full size
    assert all(image.getpixel((9, 9)) == (0, 128, 128) for image in load_images(tmp_path, 64)[1:])


def test_bars_are_pillows_and_leave_a_line_of_the_thinnest_picture():
    noise = np.random.default_rng(0).integers(0, 256, (61, 97, 3), np.uint8)
    for width, height in ((97, 61), (40, 61), (61, 61), (97, 30), (8, 8), (20, 61)):
        image = Image.fromarray(noise[:height, :width])
        for size in (7, 8, 64):
            theirs = ImageOps.pad(image, (size, size), Image.Resampling.LANCZOS, color="white")
            assert square(image, size, "pad").tobytes() == theirs.tobytes()
    for thin in ((1, 700), (700, 1)):
        seen = np.asarray(square(Image.new("RGB", thin, "red"), 8, "pad"))
        assert (seen == (255, 0, 0)).all(-1).sum() == 8 and (seen == 255).all(-1).sum() == 56


def test_a_portrait_may_keep_its_head(pipe):
    tall = Image.new("RGB", (30, 60), "red")
    tall.paste("blue", (0, 0, 30, 12))
    seen = {crop: square(tall, 8, crop) for crop in CROPS}
    assert seen["centre"].getpixel((4, 0))[0] > 250
    assert seen["top"].getpixel((4, 0))[2] > 250
    assert seen["pad"].getpixel((0, 4)) == (255, 255, 255) and seen["pad"].getpixel((4, 7))[0] > 250
    wide = tall.rotate(90, expand=True)
    assert square(wide, 8, "top").tobytes() == square(wide, 8).tobytes()  # its middle, as before
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    for crop in CROPS:
        with (
            pytest.warns(UserWarning, match="cut away are 50% of one picture, .*of 1 of 2")
            if crop != "pad"
            else nullcontext()
        ):
            latents = cache_latents(pipe, [tall, *noise_images(1)], crop)
        assert torch.equal(latents.mean[:1], cache_latents(pipe, [square(tall, side, crop)]).mean)
    for call in (lambda: square(tall, 8, "bottom"), lambda: cache_latents(pipe, [tall], "bottom")):
        with pytest.raises(ValueError, match="crop='bottom' is unknown; a picture is cut at 'centre', 'top', 'pad'"):
            call()
