"""The exported graphs against PyTorch, and what is in them."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from tests.helpers import noise_images, quantized, randn, random_pipeline, speaking_pipeline
from zoti import ConceptToken, cache_latents, load_pipeline, quantize_
from zoti.engine import session
from zoti.files import read_tensors
from zoti.model import Quantized, export_pipeline, model_key, noise_graph
from zoti.model.export import _Rows

onnx = pytest.importorskip("onnx", reason="needs the engine's tools: pip install -e .[engine]")
pytestmark = pytest.mark.slow  # an export takes seconds


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A pipeline in INT8, its VAE too, and the folder of its export."""
    pipe = quantized(speaking_pipeline(), "int8")
    quantize_(pipe.vae)
    return pipe, export_pipeline(pipe, tmp_path_factory.mktemp("exported") / "here")


def initializers(path) -> dict[str, np.ndarray]:
    graph = onnx.load(path).graph
    return {held.name: onnx.numpy_helper.to_array(held) for held in graph.initializer}


def test_the_graph_holds_the_codes_and_scales_of_every_quantized_layer(exported):
    pipe, folder = exported
    for name, networks in {"noise": [pipe.unet, pipe.text_encoder], "decode": [pipe.vae.decoder]}.items():
        held, nodes = initializers(folder / f"{name}.onnx"), onnx.load(folder / f"{name}.onnx").graph.node
        joins = [node for node in nodes if node.op_type == "DequantizeLinear"]
        found = {}
        for node in joins:
            codes, scale = (held[i] for i in node.input[:2])
            assert codes.dtype == np.int8 and node.attribute[0].i == int(codes.ndim == 2)
            found[(codes.T if codes.ndim == 2 else codes).tobytes()] = scale
        layers = [layer for network in networks for layer in network.modules() if isinstance(layer, Quantized)]
        assert len(joins) >= len(layers) > 10
        for layer in layers:
            assert np.array_equal(found[layer.codes.numpy().tobytes()], layer.scale.numpy())
        floats = {n: x.size for n, x in held.items() if x.dtype == np.float32 and n != "table.table"}
        assert max(floats.values()) <= 32 * 32  # nothing but norms, biases, positions


@pytest.mark.parametrize(("b", "k"), [(1, 1), (3, 2)])
def test_noise_is_that_of_the_pipeline_for_words_of_its_own_and_new_ones(exported, b, k):
    pipe, folder = exported
    rows, width = pipe.tokenizer.vocab_size, pipe.text_encoder.config.hidden_size
    word, z_t, t = randn(b, k, width), randn(b, *[4, 8, 8], seed=1), torch.tensor([321])
    ids = torch.tensor([pipe.tokenizer("a teapot in the snow", padding="max_length", max_length=32).input_ids] * b)
    for vector in range(k):
        ids[:, 2 + vector] = rows + vector
    table = pipe.text_encoder.get_input_embeddings()
    vectors = table.weight[ids.clamp(max=rows - 1)].clone()
    vectors[:, 2 : 2 + k] = word
    handle = table.register_forward_hook(lambda *_: vectors)
    with torch.no_grad():
        states = pipe.text_encoder(ids.clamp(max=rows - 1))[0]
        expected = pipe.unet(z_t, t, states).sample
    handle.remove()
    feeds = {"word": word.numpy(), "ids": ids.numpy(), "z_t": z_t.numpy(), "t": t.numpy()}
    (noise,) = session(folder / "noise.onnx").run(None, feeds)
    torch.testing.assert_close(torch.from_numpy(noise), expected, rtol=1e-4, atol=1e-5)


def test_pictures_are_encoded_and_painted_as_the_pipeline_does(exported):
    pipe, folder = exported
    images, latents = noise_images(), cache_latents(pipe, noise_images())
    square = [ImageOps.fit(image, (16, 16), Image.Resampling.LANCZOS) for image in images]
    pixels = pipe.image_processor.preprocess(square).numpy()
    mean, std = session(folder / "encode.onnx").run(None, {"pixels": pixels})
    torch.testing.assert_close(torch.from_numpy(mean), latents.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.from_numpy(std), latents.std, rtol=1e-4, atol=1e-6)
    (painted,) = session(folder / "decode.onnx").run(None, {"z": mean})
    with torch.no_grad():
        expected = pipe.vae.decode(latents.mean / pipe.vae.config.scaling_factor).sample
    expected = pipe.image_processor.postprocess(expected, output_type="pt")
    torch.testing.assert_close(torch.from_numpy(painted), expected, rtol=1e-4, atol=1e-5)


def test_beside_the_graphs_stand_the_table_and_the_numbers(exported):
    pipe, folder = exported
    (table,) = read_tensors(folder / "table.safetensors")[0].values()
    assert torch.equal(table.float(), pipe.text_encoder.get_input_embeddings().weight)
    told = json.loads((folder / "model.json").read_text())
    assert (told["rows"], told["width"], told["length"]) == (*table.shape, 32)
    assert (told["latent"], told["side"]) == ([4, 8, 8], 16)
    assert told["alphas_cumprod"] == pipe.scheduler.alphas_cumprod.tolist()
    assert session(folder / "noise.onnx").get_modelmeta().custom_metadata_map == {"key": model_key(pipe)}


def test_what_is_there_already_is_not_made_again_and_what_is_another_models_is(exported, monkeypatch, tmp_path):
    pipe, folder = exported
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    ConceptToken(pipe, "<new>", "teapot")
    export_pipeline(pipe, folder)
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    made = []
    monkeypatch.setattr("zoti.model.export._graph", lambda *given: made.append(given) or b"")
    pipe.vae.post_quant_conv.scale.mul_(2)
    export_pipeline(pipe, folder)
    assert len(made) == 3
    pipe.vae.post_quant_conv.scale.div_(2)
    monkeypatch.setattr("zoti.model.export._graph", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_pipeline(pipe, folder)
    assert not (folder / "model.json").exists()  # half of an export is none


def test_a_table_stored_in_half_precision_stays_so():
    ids, table = torch.tensor([[1, 0]]), randn(4, 6)
    assert _Rows(table).table.dtype == torch.float32
    half = _Rows(table.half().float())
    assert half.table.dtype == torch.float16
    assert torch.equal(half(ids)[0], table.half().float()[[1, 0]])


def test_other_kinds_are_refused_before_anything_is_made(xl, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="SDXL"):
        export_pipeline(xl, tmp_path / "x")
    for kind in ("nf4", "llm_int8"):
        with pytest.raises(ValueError, match="bitsandbytes"):
            noise_graph(quantized(random_pipeline(), kind))
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"zoti\[engine\]"):
        noise_graph(random_pipeline())
    assert not list(tmp_path.iterdir())


def test_a_key_is_the_models_alone():
    pipe = load_pipeline()
    key = model_key(pipe)
    ConceptToken(pipe, "<new>", "teapot").write(torch.zeros(1, 256))
    assert model_key(pipe) == key
    pipe.unet.conv_in.bias[0] += 1e-3
    assert model_key(pipe) != key != model_key(load_pipeline(weights="int4"))
