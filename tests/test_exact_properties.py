"""Properties of several boxes and groups, decided behind one function."""

import keras
import numpy as np
import pytest

import robustra_tf as rt
from robustra_tf import exact
from robustra_tf.exact import Status

#: `y = (relu(x0 + x1), relu(x0 - x1))`, of which any box's extremes are at its corners.
KERNEL = np.array([[1.0, 1.0], [1.0, -1.0]], np.float32)


@pytest.fixture(scope="module")
def model():
    inputs = keras.Input((2,))
    hidden = keras.layers.Dense(2, "relu", name="hidden")
    made = keras.Model(inputs, keras.layers.Dense(2, name="out")(hidden(inputs)))
    hidden.set_weights([KERNEL, np.zeros(2, np.float32)])
    made.get_layer("out").set_weights([np.eye(2, dtype=np.float32), np.zeros(2, np.float32)])
    return made


@pytest.fixture(scope="module")
def decider(model):
    return exact.Decider(model)


def boxes(*ends):
    """Boxes (low, high) of the two inputs together."""
    low, high = (np.array([[e[k]] * 2 for e in ends], float) for k in (0, 1))
    return low, high


def test_all_boxes_and_all_groups_have_to_be_proven(decider):
    low, high = boxes((0, 1), (2, 3))
    # The greatest outputs are 2 and 1, 6 and 1.
    safe = rt.Property(low, high, rt.below(0, 6.5) & rt.below(1, 1.5))
    verdict = decider.decide(safe, 30)
    assert verdict.status is Status.VERIFIED
    assert 0 < verdict.margin_lower <= 0.5 + 1e-6
    one_group = rt.Property(low, high, rt.below(0, 6.5) & rt.below(1, 0.75))
    verdict = decider.decide([safe, one_group], 30)
    assert verdict.status is Status.FALSIFIED
    assert verdict.witness[0] - verdict.witness[1] >= 0.75
    one_box = rt.Property(low, high, rt.below(0, 5.5))
    verdict = decider.decide([safe, one_box], 30)
    assert verdict.status is Status.FALSIFIED
    assert (verdict.witness >= 2).all()
    assert (verdict.witness <= 3).all()
    assert verdict.witness.sum() >= 5.5


def test_a_counterexample_has_to_be_taken(decider):
    given = rt.Property(*boxes((0, 1)), rt.below(0, 1.5))
    seen = []

    def refuses(point):
        seen.append(point)
        return False

    verdict = decider.decide(given, 30, accepts=refuses)
    assert verdict.status is Status.UNKNOWN
    assert "counterexample" in verdict.reason
    assert len(seen) >= 2  # of the attack and of the search
    assert all(point.sum() >= 1.5 for point in seen)


def test_inputs_that_float32_does_not_have_are_still_decided(decider):
    low = np.array([[0.1, 0.3]])
    verdict = decider.decide(rt.Property(low, low, rt.below(0, 0.5)), 30)
    assert verdict.status is Status.VERIFIED
    verdict = decider.decide(rt.Property(low, low, rt.above(0, 0.5)), 30)
    assert verdict.status is Status.FALSIFIED
    assert np.array_equal(verdict.witness, low[0].astype(np.float32))


def test_want_of_time_proves_nothing(decider, monkeypatch):
    monkeypatch.setattr(exact.properties, "_RESTARTS", 1)
    low, high = boxes((-1, 1), (-2, 2))
    # x0 + x1 <= 2 wherever the first output is so; bounds alone prove less.
    given = rt.Property(low, high, rt.unreachable(([[-1.0, -1.0]], [-4.001])))
    verdict = decider.decide(given, 0)
    assert verdict.status in (Status.TIMEOUT, Status.VERIFIED)
    if verdict.status is Status.TIMEOUT:
        assert decider.decide(given, 30).status is Status.VERIFIED


def test_one_call_decides_as_the_decider_does(model):
    asked = rt.Property(*boxes((0, 1)), rt.below(0, 1.5))
    assert exact.decide_property(model, asked, 30).status is Status.FALSIFIED


def test_nothing_is_never_proven(model, decider):
    low, high = boxes((0, 1))
    none = rt.Property(low[:0], high[:0], rt.below(0, 9))
    ball = rt.Property.around(low, 0.1, rt.below(0, 9))
    for given, words in (([], "none"), (none, "none"), (ball, "ball"), ([low], "ndarray")):
        with pytest.raises(ValueError, match=words):
            decider.decide(given, 1)
    with pytest.raises(ValueError, match="seconds must be at least 0, got -1"):
        exact.decide_property(model, rt.Property(low, high, rt.below(0, 9)), -1)
    with pytest.raises(ValueError, match="lower must be finite"):
        decider.decide(rt.Property(low - 1e39, high, rt.below(0, 9)), 1)
