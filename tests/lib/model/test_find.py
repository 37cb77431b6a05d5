"""What is fetched from the hub, and what is said where nothing can be. The hub itself is played by this file."""

from types import SimpleNamespace

import pytest
from huggingface_hub.utils import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

import zoti.model.find as here
from zoti.model import find_model

#: The files of a model as they are published; those that are needed are marked.
PUBLISHED = """
*model_index.json v1-5-pruned.safetensors v1-5-pruned.ckpt README.md
*unet/config.json unet/diffusion_pytorch_model.bin unet/diffusion_pytorch_model.safetensors
*unet/diffusion_pytorch_model.fp16.safetensors unet/diffusion_pytorch_model.non_ema.safetensors
*vae/config.json *vae/diffusion_pytorch_model.safetensors vae/diffusion_pytorch_model.bin
*text_encoder/config.json *text_encoder/model.fp16.safetensors text_encoder/model.safetensors
safety_checker/config.json safety_checker/model.safetensors safety_checker/pytorch_model.bin
feature_extractor/preprocessor_config.json *scheduler/scheduler_config.json
*tokenizer/merges.txt *tokenizer/vocab.json *tokenizer/tokenizer_config.json *tokenizer/special_tokens_map.json
"""
SD15 = PUBLISHED.replace("*", "").split()


def refusal(kind) -> Exception:
    """An error of the hub's client, made without an answer to build it from: each version takes one of another kind."""
    error = kind.__new__(kind)
    Exception.__init__(error, "no")
    return error


class Hub:
    """A hub that holds these files, or answers with an error; and what was asked of it."""

    def __init__(self, monkeypatch, answer, fetched=None, kept=None):
        self.wanted = None

        def model_info(_, source, timeout):
            if isinstance(answer, Exception):
                raise answer
            return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in answer])

        def snapshot_download(source, allow_patterns=None, local_files_only=False):
            if local_files_only:
                if kept is None:
                    raise FileNotFoundError("not in the cache")
                return kept
            self.wanted = allow_patterns
            if isinstance(fetched, Exception):
                raise fetched
            return "/cache/model"

        monkeypatch.setattr(here.HfApi, "model_info", model_info)
        monkeypatch.setattr(here, "snapshot_download", snapshot_download)


def test_no_more_is_fetched_than_is_needed(monkeypatch):
    hub = Hub(monkeypatch, SD15)
    assert str(find_model("someone/sd", [])) == "/cache/model"
    assert sorted(hub.wanted) == sorted(name[1:] for name in PUBLISHED.split() if name[0] == "*")
    find_model("someone/sd", [], safety_checker=True)
    assert {name.split("/")[0] for name in hub.wanted} >= {"safety_checker", "feature_extractor"}
    assert "safety_checker/model.safetensors" in hub.wanted and not any(n.endswith(".bin") for n in hub.wanted)


def without(*ends: str) -> list[str]:
    return [name for name in SD15 if not name.endswith(ends)]


@pytest.mark.parametrize(
    "answer, fetched, said",
    [
        (refusal(GatedRepoError), None, "'a/b' is gated: accept its terms at https://huggingface.co/a/b.*hf auth"),
        (refusal(RepositoryNotFoundError), None, "no model 'a/b' on the hub, or it is private, and no such folder"),
        (refusal(HfHubHTTPError), None, "could not answer for 'a/b'; try again later"),
        (ConnectionError("no route"), None, "the hub cannot be reached; is there a network.*no route"),
        (without("model_index.json"), None, "it has single files: download one of v1-5-pruned.safetensors"),
        (["README.md"], None, r"no diffusers pipeline \(it has no model_index.json\)$"),
        (without(".safetensors"), None, "a/b/unet has its weights in pickles only"),
        (without("model.safetensors", "fp16.safetensors"), None, "a/b/unet has only the variant 'non_ema'"),
        (without("model.fp16.safetensors", "text_encoder/model.safetensors"), None, "a/b/text_encoder has no weights"),
        (SD15, refusal(GatedRepoError), "'a/b' is gated"),
        (SD15, TimeoutError("cut off"), "could not be fetched to its end; run this again to go on.*cut off"),
    ],
)  # fmt: skip
def test_each_cause_is_told_from_others_and_what_to_do(monkeypatch, answer, fetched, said):
    Hub(monkeypatch, answer, fetched)
    with pytest.raises(ValueError, match=said):
        find_model("a/b", ["sd1.5"])


def test_what_was_fetched_once_opens_without_a_network(monkeypatch):
    Hub(monkeypatch, ConnectionError("no route"), kept="/cache/old")
    assert str(find_model("a/b", [])) == "/cache/old"
