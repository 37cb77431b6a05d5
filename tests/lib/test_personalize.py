"""The one call: photos and a noun in, a word out; and everything it chooses."""

import importlib

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from tests.helpers import noise_images, twin
from zoti import PRESETS, cache_latents, personalize
from zoti.data import OBJECT_TEMPLATES

here = importlib.import_module("zoti.personalize")


@pytest.fixture(autouse=True)
def where_the_user_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(any_pipe, tmp_path):
    any_pipe.save_pretrained(tmp_path / "model")
    for i, image in enumerate(noise_images(3)):
        (tmp_path / "photos").mkdir(exist_ok=True)
        image.save(tmp_path / "photos" / f"{i}.png")
    return tmp_path / "model"


@pytest.fixture
def watched(monkeypatch):
    """Numbers of the steps that were shown; as in a notebook, the word is painted after each."""
    seen: list[int] = []

    def watch(steps, total, paint):
        for step in steps:
            seen.append(step.index)
            assert paint(step.theta).size == (16, 16)
            yield step

    monkeypatch.setattr(here, "watch", watch)
    return seen


def test_photos_become_a_word_that_stock_diffusers_paints(folder, any_pipe, tmp_path, capsys, watched):
    learned = personalize("photos", "teapot", folder, steps=4)
    assert learned.word == "<my-teapot>" and not torch.equal(learned.theta, learned.objective.token.initial)
    assert watched == [1, 2, 3, 4]
    preset = PRESETS["sdxl" if hasattr(any_pipe, "text_encoder_2") else "sd1.5"]
    assert (learned.config.mu, learned.config.optimizer.lr) == (preset.mu, preset.lr)
    assert (learned.objective.timesteps.low, learned.objective.timesteps.high) == (preset.low, preset.high)
    assert learned.objective.prompts == [t.replace("{}", "<my-teapot>") for t in OBJECT_TEMPLATES[:3]]
    assert "s a step here: 1 steps take" in capsys.readouterr().out
    assert learned.paint().tobytes() != learned.paint(seed=1).tobytes()
    saved = learned.save("word")
    if not hasattr(any_pipe, "text_encoder_2"):
        stock = twin(any_pipe)
        stock.load_textual_inversion(str(saved))
        row = stock.tokenizer.convert_tokens_to_ids("<my-teapot>")
        assert torch.equal(stock.text_encoder.get_input_embeddings().weight[row], learned.theta[0])
    again = personalize("photos", "teapot", folder, steps=4)  # the run is done and kept
    assert torch.equal(again.theta, learned.theta)


def test_what_is_given_is_heeded(folder):
    photos = [Image.new("RGB", (40, 20), colour) for colour in ("red", "blue")]
    learned = personalize(
        photos, "teapot", folder, captions=["one {}", "two {}"], crop="pad", word="<pot>", steps=1,
        checkpoint="runs/a.safetensors", weights="int4", device="cpu", seed=3,
    )  # fmt: skip
    assert torch.equal(learned.objective.latents.mean, cache_latents(learned.pipe, photos, "pad").mean)
    assert learned.objective.prompts == ["one <pot>", "two <pot>"] and learned.config.seed == 3
    assert learned.pipe.unet.conv_in.kind == "int4" and len(learned.objective.latents) == 2
    with safe_open("runs/a.safetensors", "pt") as file:
        assert file.metadata()["word"] == "<pot>"


def test_an_interrupted_run_goes_on_with_as_many_candidates_a_pass_as_it_began_with(folder, monkeypatch, watched):
    def stopping(steps, total, paint):
        yield next(iter(steps))
        raise KeyboardInterrupt

    whole = personalize("photos", "teapot", folder, steps=4, checkpoint="whole.safetensors")
    assert whole.objective.max_batch == 3  # all there are: this computer has room for them
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(here, "watch", stopping)
        personalize("photos", "teapot", folder, steps=4)
    monkeypatch.setattr(here, "_free", lambda device: 1)
    resumed = personalize("photos", "teapot", folder, steps=4)
    assert watched == [1, 2, 3, 4, 4]  # three were done before it was known how long the rest takes
    assert resumed.objective.max_batch == 3 and torch.equal(resumed.theta, whole.theta)
    fresh = personalize("photos", "teapot", folder, steps=1, checkpoint="fresh.safetensors")
    assert fresh.objective.max_batch == 1  # and not none, however little there is


def test_candidates_a_pass_are_what_the_memory_holds(folder, monkeypatch):
    learned = personalize("photos", "teapot", folder, steps=1)
    counts = []
    for free in (10**5, 10**6, 3 * 10**6, 10**9):
        monkeypatch.setattr(here, "_free", lambda device, free=free: free)
        counts.append(here._affordable(learned.objective, 64))
    assert counts == sorted(counts) and counts[0] == 1 and counts[-1] == 64 and len(set(counts)) > 2


def test_a_run_that_would_take_hours_asks_to_be_told_so(folder, monkeypatch, watched):
    monkeypatch.setattr(here, "PATIENCE", 0.0)
    with pytest.raises(
        ValueError, match=r"s a step here: 2 steps take .*tiny-sd.*GPU.*slow=True.*my-teapot.safetensors"
    ):
        personalize("photos", "teapot", folder, steps=5)
    personalize("photos", "teapot", folder, steps=5, slow=True)
    assert watched == [4, 5]  # the three steps were not for nothing


@pytest.mark.parametrize(
    "seconds, said", [(3600 * 100, "100 hours"), (7200, "2 hours"), (7000, "117 minutes"), (119, "119 seconds")]
)
def test_time_is_told_as_people_tell_it(seconds, said):
    assert here._duration(seconds) == said


def test_the_vae_and_the_table_of_words_wait_elsewhere_while_a_word_is_learned(folder, monkeypatch, watched):
    """There is one device here: the moves are counted, and where each step found the VAE."""
    moves = []

    class Spied(torch.nn.Linear):
        def to(self, device):
            moves.append(str(device))
            return self

    spied = Spied(1, 1)
    with here.placed(spied, "elsewhere"):
        assert moves == ["elsewhere"]
        with here.placed(spied, "gpu"):
            pass
    assert moves == ["elsewhere", "gpu", "cpu", "cpu"]
    inside, placed = [], here.placed
    monkeypatch.setattr(here, "placed", lambda network, device: inside.append((type(network).__name__, str(device))) or
                        placed(network, device))  # fmt: skip
    learned = personalize("photos", "teapot", folder, steps=2)
    # away; and twice back, to a CPU's own device, to paint
    tables = [("Embedding", "cpu")] * len(learned.objective.token.vocabularies)
    assert inside == [("AutoencoderKL", "cpu"), *tables] * 3


def test_what_is_wrong_is_said_before_anything_is_loaded(tmp_path):
    with pytest.raises(ValueError, match="Give a noun"):
        personalize("photos", " ")
    with pytest.raises(FileNotFoundError, match="no folder"):
        personalize("nowhere", "dog")


def test_a_file_that_is_no_run_is_refused_and_kept(folder, tmp_path):
    (tmp_path / "my-teapot.safetensors").write_bytes(b"something of the user's")
    with pytest.raises(ValueError, match="not a readable checkpoint; give this run another path"):
        personalize("photos", "teapot", folder, steps=1)
    assert (tmp_path / "my-teapot.safetensors").read_bytes() == b"something of the user's"


def test_on_tiny_sd_nothing_is_chosen_by_hand():
    from zoti.data import load_subject

    photos = load_subject("teapot").references
    learned = personalize(photos, "teapot", "tiny-sd", steps=24)
    assert learned.objective.timesteps.high == PRESETS["tiny-sd"].high and learned.config.mu == PRESETS["tiny-sd"].mu
    theta = torch.stack([learned.objective.token.initial, learned.theta])
    assert (theta[1] - theta[0]).abs().max() > 24 * 5e-3 / 10
