"""What each method asks of memory, to a hundredth and the same every time."""

import pytest

from zoti.ledger.scenarios import dreambooth, gauss_newton, lora, textual_inversion, zeroth_order


@pytest.mark.parametrize(
    "gigabytes, scenario, options",
    [
        (18.02, dreambooth, {}),
        (6.14, textual_inversion, {"weights": "float32", "whole_table": True}),
        (1.93, textual_inversion, {"whole_table": True}),
        (1.85, textual_inversion, {"whole_table": True, "cached": True}),
        (1.37, textual_inversion, {"whole_table": True, "cached": True, "checkpointing": True}),
        (1.21, textual_inversion, {"cached": True, "checkpointing": True}),
        (1.82, lora, {}),
        (1.44, zeroth_order, {"cached": False}),
        (1.10, zeroth_order, {}),
        (1.23, zeroth_order, {"max_batch": 3}),
        (1.02, zeroth_order, {"table": False}),
        (0.66, zeroth_order, {"weights": "int4"}),
        (0.58, zeroth_order, {"weights": "int4", "table": False}),
        (0.60, zeroth_order, {"weights": "nf4+int4", "table": False}),
        (0.94, zeroth_order, {"weights": "nf4"}),  # its convolutions have eight bits
        (1.34, zeroth_order, {"name": "sd2.1"}),
        (3.66, zeroth_order, {"name": "sdxl"}),
        (4.93, zeroth_order, {"name": "sdxl", "cached": False}),
    ],
)
@pytest.mark.slow
def test_stable_diffusion_to_a_hundredth(gigabytes, scenario, options):
    assert scenario(**options).peak.total / 1e9 == pytest.approx(gigabytes, rel=0.01)


def test_errors_instead_of_losses_are_kilobytes_beside_the_model():
    """Five predicted noises of 8 x 8 x 32 in float32, and in float64 the first, their differences and those scaled."""
    asked, alone, numbers = gauss_newton("tiny-sd").peak, zeroth_order("tiny-sd").peak, 8 * 8 * 32
    assert asked.parts["optimizer state"] == 32 * 256 * 4 + (32 * 32 + 2) * 8  # directions, precision, two numbers
    more = asked.total - alone.total
    assert 5 * numbers * 4 < more < asked.parts["optimizer state"] + numbers * (5 * 4 + 9 * 8)
    assert more < 0.02 * alone.total


@pytest.mark.slow
def test_a_scenario_is_the_same_every_time():
    first, second = zeroth_order(), zeroth_order()
    assert first.peaks == second.peaks
    assert list(first.peaks) == ["outside", "forward", "step"]
    assert first.peak.total / 1e9 == pytest.approx(1.10, rel=0.01)


def test_dreambooth_of_quantized_weights_is_refused():
    with pytest.raises(ValueError, match="float16, float32"):
        dreambooth("tiny-sd", "nf4")
