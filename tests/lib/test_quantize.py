"""Quantized layers: bounds, equality with plain layers on the dequantised weight, bytes, and finite differences."""

import copy

import bitsandbytes.functional as bnb
import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn

from tests.conftest import random_pipeline
from zoti import footprint, quantize_
from zoti.architectures import architecture
from zoti.quantize import NF4Linear, QuantConv2d, QuantLinear, W8A8Linear
from zoti.rounding import pack, quantize_weight, unpack

KINDS = ["int8", "int4", "nf4", "llm_int8"]


@pytest.fixture(autouse=True)
def seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize(("bits", "top"), [(8, 127), (4, 7)])
@pytest.mark.parametrize("shape", [(5, 7), (6, 3, 3, 3), (1, 1)])
def test_rounding_error_is_at_most_half_a_step(shape, bits, top):
    weight = torch.randn(shape) * torch.logspace(-3, 3, shape[0]).view(-1, *[1] * (len(shape) - 1))
    codes, scale = quantize_weight(weight, bits)
    step = scale.view(-1, *[1] * (len(shape) - 1))
    assert codes.dtype == torch.int8
    assert ((weight - codes * step).abs() <= step / 2 * (1 + 1e-5)).all()
    assert (codes.flatten(1).abs().amax(1) == top).all()


@pytest.mark.parametrize("shape", [(2, 8), (3, 5), (1, 1), (2, 3, 3, 3)])
def test_packing_halves_the_bytes_and_loses_nothing(shape):
    codes = torch.randint(-8, 8, shape, dtype=torch.int8)
    packed = pack(codes)
    assert packed.dtype == torch.uint8
    assert packed.numel() == (codes.numel() + 1) // 2
    assert torch.equal(unpack(packed, codes.shape), codes)


def test_int4_layers_hold_the_rounded_weight():
    for layer in (nn.Linear(7, 5), nn.Conv2d(3, 5, 3)):
        quant = (QuantLinear if isinstance(layer, nn.Linear) else QuantConv2d)(layer, "int4")
        codes, scale = quantize_weight(layer.weight, 4)
        assert torch.equal(quant.weight, codes * scale.view(-1, *[1] * (codes.ndim - 1)))


@pytest.mark.parametrize("shape", [(64, 32), (3, 5)])
def test_nf4_is_that_of_bitsandbytes(shape):
    layer = nn.Linear(*shape)
    theirs, state = bnb.quantize_4bit(layer.weight.data, blocksize=64, quant_type="nf4")
    quant = NF4Linear(layer)
    assert torch.equal(quant.weight, bnb.dequantize_4bit(theirs, state))
    assert footprint(quant)["nf4"] == (layer.weight.numel() + 1) // 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_precision_are_quantized_alike(kind, dtype):
    layer = nn.Linear(64, 8).to(dtype)
    (expected,) = quantize_(nn.Sequential(copy.deepcopy(layer).float()), kind)
    (quant,) = quantize_(nn.Sequential(layer), kind)
    assert torch.equal(quant.codes, expected.codes) and torch.equal(quant.scale, expected.scale)
    assert quant(torch.randn(2, 64, dtype=dtype)).dtype == quant.weight.dtype == dtype


def test_w8a8_is_linear8bitlt_in_eval():
    from bitsandbytes.nn import Linear8bitLt

    layer, x = nn.Linear(64, 48), torch.randn(3, 5, 64)
    theirs = Linear8bitLt(64, 48, has_fp16_weights=False)
    theirs.load_state_dict(layer.state_dict(), strict=False)
    theirs, ours = theirs.to("cpu").eval(), W8A8Linear(layer)
    assert (theirs.weight.data - ours.codes).abs().max() <= 1  # theirs are rounded from fp16: a few ties fall otherwise
    ours.codes, ours.scale = theirs.weight.data, theirs.weight.SCB / 127
    assert (ours(x) - theirs(x)).norm() / ours(x).norm() < 3e-4  # their output passes through fp16


@pytest.mark.parametrize("dtype, error", [(torch.float16, 2e-3), (torch.bfloat16, 1e-2), (torch.float64, 1e-6)])
def test_w8a8_multiplies_in_full_precision_whatever_its_input(dtype, error):
    """A GPU's pipeline is fp16, which ends at 65504; a sum of 1280 products of bytes does not."""
    (layer,), x = quantize_(nn.Sequential(nn.Linear(1280, 48)), "llm_int8"), torch.randn(5, 1280).half().float()
    expected, y = layer(x), layer.to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    assert (y - expected).norm() / expected.norm() < error


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(16,), (0, 16), (2, 0, 16), (2, 3, 4, 16)])
def test_a_linear_layer_takes_any_shape_that_a_plain_one_takes(kind, shape):
    (layer,) = quantize_(nn.Sequential(nn.Linear(16, 5)), kind)
    assert layer(torch.randn(shape)).shape == (*shape[:-1], 5)


def test_bitsandbytes_has_no_int8_kernel_that_leaves_activations_alone_in_eval():
    """Why `QuantLinear` stores what `Linear8bitLt` does and multiplies for itself; should this fail, use theirs."""
    from bitsandbytes.nn import Linear8bitLt

    layer, x = nn.Linear(64, 48), torch.randn(5, 64)
    theirs, ours = Linear8bitLt(64, 48, has_fp16_weights=False), QuantLinear(layer)
    theirs.load_state_dict(layer.state_dict(), strict=False)
    theirs = theirs.to("cpu")
    ours.codes, ours.scale = theirs.weight.data, theirs.weight.SCB / 127
    error = [float((theirs.train(mode)(x) - ours(x)).detach().norm() / ours(x).norm()) for mode in (True, False)]
    assert error[0] < 1e-6 < 1e-3 < error[1]


def test_w8a8_rounds_activations_and_weight_only_does_not():
    layer, x = nn.Linear(64, 48), torch.randn(8, 64)
    plain = F.linear(x, QuantLinear(layer).weight, layer.bias)
    rounded = W8A8Linear(layer)(x)
    assert torch.equal(QuantLinear(layer)(x), plain)
    assert 1e-3 < (rounded - plain).norm() / plain.norm() < 0.03
    small = 1e-5 * torch.randn(8, 64)  # below an activation's step: most coordinates do not notice
    assert (W8A8Linear(layer)(x + small) == rounded).float().mean() > 0.1


def test_gradients_pass_straight_through_the_rounding_of_activations():
    layer, x = nn.Linear(16, 4), torch.randn(3, 16, requires_grad=True)
    quant = W8A8Linear(layer)
    quant(x).sum().backward()
    torch.testing.assert_close(x.grad, quant.weight.sum(0).expand(3, -1))
    torch.testing.assert_close(quant(x).detach(), quant(x.detach()))


def test_codes_are_those_of_bitsandbytes():
    weight = torch.randn(1000, 1000)
    theirs, absmax, _ = bnb.int8_vectorwise_quant(weight)
    codes, scale = quantize_weight(weight)
    other = codes != theirs  # they multiply where we divide: ties fall to either side
    assert other.sum() <= 10
    assert (codes.int() - theirs.int()).abs().max() <= 1
    torch.testing.assert_close(scale * 127, absmax)


def test_an_all_zero_channel_stays_zero():
    codes, scale = quantize_weight(torch.zeros(2, 3))
    assert not codes.any()
    assert torch.isfinite(scale).all()


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "padding": 1}, {"groups": 4, "bias": False}, {"dilation": 2, "padding": 2}]
)
@pytest.mark.parametrize(("kind", "bound"), [("int8", 0.05), ("int4", 0.6)])
def test_convolution_equals_plain_convolution_on_the_dequantised_weight(options, kind, bound):
    layer = nn.Conv2d(8, 12, 3, **options)
    quant, x = QuantConv2d(layer, kind), torch.randn(2, 8, 9, 9)
    expected = F.conv2d(x, quant.weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)
    assert torch.equal(quant(x), expected)
    assert (quant(x) - layer(x)).abs().max() < bound


@pytest.mark.parametrize("kind", ["int8", "int4", "nf4"])
def test_linear_equals_plain_linear_on_the_dequantised_weight(kind):
    layer, x = nn.Linear(16, 5), torch.randn(3, 4, 16)
    (quant,) = quantize_(nn.Sequential(layer), kind)
    assert torch.equal(quant(x), F.linear(x, quant.weight, layer.bias))


@pytest.mark.parametrize("kind", KINDS)
def test_train_and_eval_are_alike(kind):
    net = quantize_(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(2), nn.Linear(49, 64)), kind)
    x = torch.randn(2, 3, 9, 9, requires_grad=True)
    outputs = [net.train(mode)(x) for mode in (True, False)]
    gradients = [torch.autograd.grad(y.square().sum(), x)[0] for y in outputs]
    with torch.no_grad():
        outputs += [net.train(mode)(x) for mode in (True, False)]
    assert gradients[0].any() and torch.equal(*gradients)
    assert torch.equal(*outputs[:2]) and torch.equal(*outputs[2:])
    torch.testing.assert_close(outputs[0], outputs[2])


@pytest.mark.parametrize("kind", ["int8", "int4", "nf4"])
def test_half_precision_leaves_the_scales_and_with_them_channels_of_small_weights(kind):
    layer = nn.Linear(64, 8)
    with torch.no_grad():
        layer.weight[:4] *= 1e-3  # INT8 scales of 1e-6: fp16 has sixteen numbers up to there
    (exact,), (half,) = (quantize_(nn.Sequential(layer), kind) for _ in range(2))
    half.half()
    assert (half.scale.dtype, half.bias.dtype, half.weight.dtype) == (torch.float32, torch.float16, torch.float16)
    error = (half.weight.float() - exact.weight).abs().amax(1) / exact.weight.abs().amax(1)
    assert error.max() < 2e-3  # that of fp16 itself for numbers of 1e-4
    assert half(torch.randn(2, 64).half()).dtype == torch.float16
    assert torch.equal(half.float().weight, exact.weight)


def test_scales_go_along_when_device_and_precision_change_at_once():
    layer = QuantLinear(nn.Linear(4, 3)).to("meta", torch.float16)  # as load_pipeline moves a pipeline to a GPU
    assert {x.device.type for x in layer.buffers()} == {"meta"}
    assert (layer.scale.dtype, layer.bias.dtype) == (torch.float32, torch.float16)


@pytest.mark.parametrize(
    "layer, shape",
    [
        (nn.Linear(16, 5), (16,)),
        (nn.Linear(16, 5, bias=False), (3, 4, 16)),
        (nn.Conv2d(8, 12, 3), (2, 8, 9, 9)),
        (nn.Conv2d(8, 12, 3, stride=2, padding=1), (2, 8, 10, 10)),
        (nn.Conv2d(8, 12, 3, groups=4, dilation=2, padding=2, bias=False), (2, 8, 9, 9)),
    ],
)
def test_backward_rebuilds_the_weight_and_gets_the_very_gradient_of_autograd(layer, shape):
    quant, saved = (QuantLinear if isinstance(layer, nn.Linear) else QuantConv2d)(layer), []
    x = torch.randn(shape, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = quant(x)
    plain = quant.apply_weight(x)  # under autograd's own eyes, keeping the weight
    cotangent = torch.randn_like(y)
    assert not saved
    assert torch.equal(y, plain)
    ours, theirs = (torch.autograd.grad(out, x, cotangent)[0] for out in (y, plain))
    assert torch.equal(ours, theirs)


def test_no_float_copy_is_kept_and_bytes_are_counted():
    net = nn.Sequential(nn.Linear(10, 20), nn.Conv2d(3, 4, 3), nn.LayerNorm(6))
    quantize_(net)
    assert [type(m) for m in net] == [QuantLinear, QuantConv2d, nn.LayerNorm]
    assert footprint(net) == {"int8": 200 + 108, "float32": 4 * (20 + 20 + 4 + 4 + 12), "total": 308 + 240}
    assert not any(p.requires_grad for m in net[:2] for p in m.parameters())


@pytest.mark.parametrize(
    ("kind", "linear", "codes", "scales"),
    [
        ("int4", QuantLinear, {"int4": 50 + 54}, 10 + 4),
        ("nf4", NF4Linear, {"nf4": 50, "int8": 108}, 2 + 4),  # 100 weights are two blocks of 64
        ("llm_int8", W8A8Linear, {"int8": 100 + 108}, 10 + 4),
    ],
)
def test_bytes_are_counted_by_what_they_mean(kind, linear, codes, scales):
    net = quantize_(nn.Sequential(nn.Linear(10, 10), nn.Conv2d(3, 4, 3), nn.LayerNorm(6)), kind)
    assert [type(m) for m in net] == [linear, QuantConv2d, nn.LayerNorm]
    counted = {**codes, "float32": 4 * (scales + 10 + 4 + 12)}
    assert footprint(net) == {**counted, "total": sum(counted.values())}
    reachable = sum(v.untyped_storage().nbytes() for m in net[:2] for v in vars(m)["_buffers"].values())
    assert reachable + 4 * 12 == footprint(net)["total"]  # no float copy hides behind a view
    assert not any(isinstance(v, torch.Tensor) for m in net[:2] for v in vars(m).values())


def test_tied_weights_are_counted_once():
    words, scores = nn.Embedding(30, 8), nn.Linear(8, 30, bias=False)
    scores.weight = words.weight
    assert footprint(nn.Sequential(words, scores)) == {"float32": 4 * 240, "total": 4 * 240}


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_net_loads_its_own_state(kind):
    a, b = (quantize_(nn.Sequential(nn.Linear(36, 7), nn.Conv2d(1, 2, 3)), kind) for _ in range(2))
    assert not torch.equal(a[0].weight, b[0].weight)
    b.load_state_dict(a.state_dict())
    assert all(torch.equal(m.weight, o.weight) and torch.equal(m.bias, o.bias) for m, o in zip(a, b, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_safetensors_bring_a_net_back_onto_the_cpu_and_onto_meta(kind, tmp_path):
    """Into a freshly quantized net of other weights, and into one that had no weights at all."""

    def net() -> nn.Module:
        return quantize_(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(2), nn.Linear(49, 5, bias=False)), kind).eval()

    first, second, x = net(), net(), torch.randn(2, 3, 9, 9)
    save_file(first.state_dict(), tmp_path / "net.safetensors")
    assert not torch.equal(second(x), first(x))
    second.load_state_dict(load_file(tmp_path / "net.safetensors"))
    with torch.device("meta"):
        third = net()
    third.load_state_dict(load_file(tmp_path / "net.safetensors"), assign=True)
    assert not any(tensor.is_meta for tensor in third.state_dict().values())
    for other in (second, third):
        assert torch.equal(other(x), first(x))
        assert footprint(other) == footprint(first)
    on_disk = (tmp_path / "net.safetensors").stat().st_size
    assert footprint(first)["total"] <= on_disk < footprint(first)["total"] + 1024  # a header, and no float copy


def test_sd15_is_96_percent_int8():
    """U-Net, text encoder and VAE of Stable Diffusion 1.5 together, on the meta device: exact counts."""
    networks = architecture("sd1.5", "float32").networks()
    parameters = sum(p.numel() for network in networks for p in network.parameters())
    codes = sum(footprint(quantize_(network))["int8"] for network in networks)
    assert parameters == 859_520_964 + 123_060_480 + 83_653_863
    assert 0.96 < codes / parameters < 0.97  # the rest is the table of words, above all


def test_sd15_unet_is_almost_all_int8():
    """The architecture of Stable Diffusion 1.5's U-Net, on the meta device: no weights, exact counts."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        total = sum(p.numel() for p in unet.parameters())
        quantize_(unet)
    assert total == 859_520_964
    assert footprint(unet)["int8"] / total > 0.99


@pytest.mark.parametrize(("kind", "gigabytes"), [("int4", 0.432), ("nf4", 0.743), ("llm_int8", 0.862)])
def test_sd15_unet_in_other_kinds_on_meta(kind, gigabytes):
    with torch.device("meta"):
        unet = quantize_(UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8), kind)
        x, words = torch.empty(1, 4, 64, 64), torch.empty(1, 77, 768)
        assert unet(x, torch.tensor(1), words).sample.shape == x.shape
    assert footprint(unet)["total"] / 1e9 == pytest.approx(gigabytes, abs=0.001)


def differences(kind: str, double: bool = False) -> torch.Tensor:
    """D(mu) = [L(theta + mu e) - L(theta - mu e)] / (2 mu) for mu = 1e-3, 3e-3, ..., 1e-1 along six e: (5, 6)."""
    from tests.lib.test_invert import generator, problem

    pipe = random_pipeline()
    for module in (pipe.unet, pipe.text_encoder):
        quantize_(module, kind)
        if double:
            module.double()
    objective = problem(pipe)
    theta, draw = objective.token.initial, objective.draw(generator(3))
    e = torch.randn(6, *theta.shape, generator=generator(5))
    with torch.inference_mode():
        mus = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
        return torch.stack(
            [(objective(theta + mu * e, draw) - objective(theta - mu * e, draw)) / (2 * mu) for mu in mus]
        )


@pytest.mark.parametrize("kind", ["int8", "int4", "nf4"])
def test_rounded_weights_leave_finite_differences_alone(kind):
    """The same weights in float64 say what D(mu) is; on this net its own curvature bends it beyond mu = 1e-2."""
    single, exact = differences(kind), differences(kind, double=True)
    assert ((single - exact).norm(dim=1) / exact.norm(dim=1)).max() < 3e-3  # at every mu from 1e-3 to 1e-1
    assert (single[:3] - single[2]).norm(dim=1).max() / single[2].norm() < 0.1  # flat where the net is


def test_rounded_activations_drown_finite_differences():
    rounded, exact = differences("llm_int8"), differences("int8", double=True)  # the same weights
    error = (rounded - exact).norm(dim=1) / exact.norm(dim=1)
    assert error[0] > 0.5  # mu = 1e-3: nothing left
    assert error[0] > 10 * error[-1]  # the rounding error is divided by mu
    assert (rounded[0] - rounded[2]).norm() / rounded[2].norm() > 0.5


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="int8"):
        quantize_(nn.Sequential(nn.Linear(2, 2)), "int7")
    with pytest.raises(ValueError, match="zeros"):
        QuantConv2d(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"))
    with pytest.raises(ValueError, match="same"):
        QuantConv2d(nn.Conv2d(2, 2, 3, padding="same"))
