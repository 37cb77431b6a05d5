"""A claim holds, falls under its mutation, and shows both."""

import json
import re

import numpy as np
import pytest

from zoti.page import Html, claim, claims, predict, predictions, proof, show

GIVEN = {"mutated": 0, "mutation": "nothing at all", "name": "more"}


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(proof, "_claimed", {})
    monkeypatch.setattr(predictions, "_asked", {})


def test_every_value_must_hold_and_be_a_number():
    for measured in ([2, 1], [2, float("nan")], np.array([0.5])):
        with pytest.raises(AssertionError, match="does not hold"):
            claim("More.", measured, above=1, **GIVEN)
    assert claim("More.", np.array([2.0, 3.0]), above=1, below=4, **GIVEN).bound == "above 1 and below 4"
    assert claim("None differ.", 0, equals=0, mutated=3, mutation="a pixel turned", name="same").values == "0"


def test_one_fallen_value_is_enough_for_a_mutation_and_none_is_not():
    claim("More.", [2, 3], above=1, mutated=[2, 0], mutation="half of it", name="more")
    with pytest.raises(AssertionError, match=r"claims nothing.*half of it.*2, 3"):
        claim("More.", [2, 3], above=1, mutated=[2, 3], mutation="half of it", name="more")


def test_a_claim_needs_a_threshold_a_value_and_an_address():
    with pytest.raises(ValueError, match="no threshold"):
        claim("More.", 2, **GIVEN)
    with pytest.raises(ValueError, match="no value"):
        claim("More.", [], above=1, **GIVEN)
    with pytest.raises(ValueError, match="address"):
        claim("More.", 2, above=1, mutated=0, mutation="nothing", name="Not An Address")


def test_the_card_tells_machine_and_reader_the_same():
    made = claim("More < `it`.", [2, 3, 4, 5], above=1, unit="dB", evidence="4 seeds", steps=12_480, of="one", **GIVEN)
    data = made._repr_mimebundle_()
    assert data["text/plain"] == "✓ More < `it`. (2 to 5 (4 values), above 1 dB)"
    card = data["text/html"]
    assert 'id="claim-more"' in card and "More &lt; <code>it</code>." in card
    assert card.count("zoti-seed") == 4 and card.count("zoti-bound") == card.count("zoti-fallen") == 1
    assert "<dt>steps</dt><dd>12,480</dd>" in card and "<dt>of</dt><dd>one</dd>" in card and "4 seeds · " in card
    places = [float(x) for x in re.findall(r"left:([\d.]+)%", card)]
    assert all(0 <= x <= 100 for x in places)
    told = json.loads(json.dumps(data[proof.MIME]))
    assert told["measured"] == [2, 3, 4, 5] and told["above"] == 1 and told["mutated"] == [0]


@pytest.mark.parametrize("measured", [1e-9, 5, 1e6])
def test_number_lines_stay_within_the_card(measured):
    card = claim("More.", measured, above=0, mutated=-1e-12, mutation="less", name="more").card()
    assert all(0 <= float(x) <= 100 for x in re.findall(r"left:([\d.]+)%", card))


def test_a_claim_marks_the_prediction_it_was_asked_to():
    predict("size", "How small?", ["ten", "a hundred"])
    card = claim("Small.", 2, above=1, predicted="size", answer="a hundred", **GIVEN).card()
    assert 'data-predict="size" data-answer="&quot;a hundred&quot;"' in card
    assert "<summary>What did you predict?</summary><p>Measured: a hundred.</p>" in card
    with pytest.raises(ValueError, match="gives no answer"):
        claim("Small.", 2, above=1, predicted="size", **GIVEN)


def test_claims_are_listed_once_with_a_way_to_each():
    claim("More.", 2, above=1, **GIVEN)
    claim("More.", 3, above=1, **GIVEN)  # its cell was run twice
    claim("Less.", 2, below=3, mutated=4, mutation="more", name="less")
    markup = claims().markup
    assert markup.count("<tr>") == 3 and 'href="#claim-more"' in markup and "<td>3 </td>" in markup
    assert 'class="zoti-score"' in markup


def test_show_shows_in_turn(monkeypatch):
    shown = []
    monkeypatch.setattr(proof, "display", shown.append)
    show(Html("a", "a"), Html("b", "b"))
    assert [h.text for h in shown] == ["a", "b"]
