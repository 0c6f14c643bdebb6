"""Sound certificates: never wrong, neither of the real network nor of its float32 forward pass.

The judges are exact rational arithmetic (`fractions.Fraction`, every weight read as it is stored)
and Keras's own forward pass in float32, on networks made to exploit rounding.
"""

import itertools
from fractions import Fraction

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers

import robustra_tf as rt
from robustra_tf import export
from tests import judges, nets

REGIONS = [("linf", (0.0, 1.0)), ("linf", None), ("l2", None), ("l1", None)]


def test_float32_certifies_something_false_and_the_sound_mode_does_not():
    """`relu(1e8 - 3.9 x) - 1e8 + 3` at 1 is -0.9; in float32 the 3.9 is lost and 3 comes out."""
    model = judges.chain((1, 1, 2))
    first, last = np.float32([[-3.9]]), np.float32([[1.0, 0.0]])
    model.set_weights([first, np.float32([1e8]), last, np.float32([-1e8 + 8, 5.0])])
    x, y = np.ones((1, 1), np.float32), np.array([0])
    assert judges.exact_margin(model.get_weights(), x[0], 0) < 0
    assert rt.certify(model, x, y, 0.0).certified.all()
    for method in ("dual", "interval"):
        assert not rt.certify(model, x, y, 0.0, sound=True, method=method).certified.any()


def test_float64_bounds_what_the_model_gets_wrong_and_the_sound_mode_does_not():
    """`6 - (relu(1e8 + 4.1 x) - 1e8)` at 1 is 1.9; the model computes in float32 and finds -2."""
    model = judges.chain((1, 1, 2))
    first, last = np.float32([[4.1]]), np.float32([[-1.0, 0.0]])
    model.set_weights([first, np.float32([1e8]), last, np.float32([1e8, -6.0])])
    x, y = np.ones((1, 1), np.float32), np.array([0])
    assert judges.exact_margin(model.get_weights(), x[0], 0) > 1
    assert judges.margin_of(model.predict(x, verbose=0)[0], 0) < 0
    found = rt.certify(model, x, y, 0.0, dtype="float64")
    assert found.worst_margin > 1
    assert found.predicted.tolist() == [1]
    assert not found.certified.any()
    for method in ("dual", "interval"):
        found = rt.certify(model, x, y, 0.0, sound=True, method=method)
        assert found.worst_margin < 0
        assert not found.certified.any()


def test_the_sound_mode_still_certifies_what_is_clear():
    """The same numbers with a margin of 100: what float32 can lose is far less."""
    model = judges.chain((1, 1, 2))
    first, last = np.float32([[4.1]]), np.float32([[-1.0, 0.0]])
    model.set_weights([first, np.float32([1e8]), last, np.float32([1e8, -200.0])])
    x, y = np.ones((1, 1), np.float32), np.array([0])
    for method in ("dual", "interval"):
        found = rt.certify(model, x, y, 0.1, sound=True, method=method, box=None)
        assert found.certified.all()
        assert 0 < found.worst_margin[0] < 195


def test_a_long_sum_depends_on_its_order_and_the_sound_mode_knows():
    """4,096 terms that cancel but for some ulp: the order decides the sign."""
    rng = np.random.default_rng(1)
    n = 4096
    model = judges.chain((n, 2))
    half = rng.uniform(1, 2, size=n // 2).astype(np.float32)
    kernel = np.zeros((n, 2), np.float32)
    kernel[:, 0] = np.concatenate([half, -half])
    x, y = np.ones((1, n), np.float32), np.array([0])
    orders = [np.arange, lambda k: np.arange(k)[::-1], rng.permutation, rng.permutation]
    certified, differing = 0, 0
    for shift in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0):
        model.set_weights([kernel, np.float32([shift, 0.0])])
        exact = judges.exact_margin(model.get_weights(), x[0], 0)
        sums = [judges.summed_one_by_one(model.get_weights(), x[0], order) for order in orders]
        computed = [judges.margin_of(logits, 0) for logits in sums]
        computed.append(judges.margin_of(model(x).numpy()[0], 0))
        differing += min(computed) <= 0 < exact
        if rt.certify(model, x, y, 0.0, sound=True).certified[0]:
            certified += 1
            assert exact > 0
            assert min(computed) > 0
    assert differing >= 1
    assert 1 <= certified < 8


SHAPES = [(3, 4, 2), (40, 5, 4, 3)]
MODELS = {}


def nasty(shape, seed, magnitude, bias, ulps):
    """A dense chain with cancelling weights, large biases, and a margin of a few float32 ulp."""
    rng = np.random.default_rng(seed)
    model = MODELS.setdefault(shape, judges.chain(shape))
    weights = []
    for before, after in itertools.pairwise(shape):
        kernel = rng.normal(size=(before, after)) * 10.0 ** rng.integers(-2, magnitude + 1)
        half = before // 2
        kernel[half : 2 * half] = -kernel[:half] * (1 + 1e-7 * rng.integers(-3, 4, (half, after)))
        weights += [kernel.astype(np.float32)]
        weights += [(rng.choice([-1.0, 0.0, 1.0], size=after) * bias).astype(np.float32)]
    x = rng.uniform(size=shape[0]).astype(np.float32)
    logits = judges.exact_logits(weights, x)
    # Class 0 wins by so many units in the last place of the largest number around.
    largest = max([abs(float(v)) for v in logits] + [bias, 1e-3])
    for t in range(1, len(logits)):
        gap = float(logits[t] - logits[0]) + ulps * largest * 2.0**-23
        weights[-1][t] = np.float32(float(weights[-1][t]) - gap)
    model.set_weights(weights)
    return model, x, rng


COUNTS = {"certified": 0, "misjudged": 0}


@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    shape=st.sampled_from(SHAPES),
    seed=st.integers(0, 2**31),
    magnitude=st.integers(-1, 3),
    bias=st.sampled_from([0.0, 1.0, 1e4, 1e8]),
    ulps=st.sampled_from([-3, 0.1, 0.3, 1, 5, 30, 1e4, 1e6]),
    eps=st.sampled_from([0.0, 1e-7, 1e-4]),
    region=st.sampled_from(REGIONS[::2]),
)
def check_a_nasty_network(shape, seed, magnitude, bias, ulps, eps, region):
    model, x, rng = nasty(shape, seed, magnitude, bias, ulps)
    weights, (norm, box) = model.get_weights(), region
    found = [
        rt.certify(model, x[None], [0], eps, norm=norm, box=box, sound=True, method=method)
        for method in ("dual", "interval")
    ]
    near = judges.points(x, eps, norm, box, 6, rng)
    exact = [judges.exact_margin(weights, point, 0) for point in near]
    computed = [judges.margin_of(logits, 0) for logits in model(near).numpy()]
    for order in (np.arange, lambda n: np.arange(n)[::-1], rng.permutation):
        sums = [judges.summed_one_by_one(weights, point, order) for point in near]
        computed += [judges.margin_of(logits, 0) for logits in sums]
    COUNTS["misjudged"] += (min(computed) <= 0) != (min(exact) <= 0)
    for one in found:
        # The bound itself holds, certified or not.
        if np.isfinite(one.worst_margin[0]):
            assert Fraction(float(one.worst_margin[0])) <= min(exact)
        if one.certified[0]:
            COUNTS["certified"] += 1
            assert min(exact) > 0
            assert min(computed) > 0


def test_random_nasty_networks():
    """Exact margins of sampled points positive, float32's too, wherever it says certified."""
    for name in COUNTS:
        COUNTS[name] = 0
    check_a_nasty_network()
    # The networks are what they should be: some are certified, and float32 has the sign of others
    # wrong, in one order of its sums or another.
    assert COUNTS["certified"] >= 50
    assert COUNTS["misjudged"] >= 5


@pytest.mark.parametrize("norm_and_box", REGIONS[::2], ids=str)
def test_sound_margins_are_a_little_below(norm_and_box):
    model = nets.two_conv()
    x = nets.images(model, 3)
    y = model(x).numpy().argmax(1)
    for method in ("dual", "interval"):
        options = {"norm": norm_and_box[0], "box": norm_and_box[1], "method": method}
        plain = rt.certify(model, x, y, 0.01, dtype="float64", **options)
        sound = rt.certify(model, x, y, 0.01, sound=True, **options)
        others = np.arange(nets.CLASSES) != y[:, None]
        given_up = (plain.margin_lower - sound.margin_lower)[others]
        assert (given_up > 0).all()
        assert given_up.max() < 2e-4
        np.testing.assert_array_equal(sound.margin_lower[~others], 0)


def test_overflow_certifies_nothing():
    """Float64 does not overflow where the model does."""
    model = judges.chain((2, 2, 2))
    weights = model.get_weights()
    weights[0] = np.full((2, 2), 1e30, np.float32)
    weights[2] = np.float32([[1e30, 0.0], [0.0, 0.0]])
    weights[1], weights[3] = np.zeros(2, np.float32), np.zeros(2, np.float32)
    model.set_weights(weights)
    x, y = np.full((1, 2), 0.5, np.float32), np.array([0])
    for options in ({"dtype": "float64"}, {"sound": True}, {"sound": True, "method": "interval"}):
        found = rt.certify(model, x, y, 0.1, **options)
        assert not found.certified.any()
        assert found.margin_lower[0, 1] == -np.inf
    with pytest.raises(ValueError, match="save: nothing is proven of image 0: leave it out"):
        rt.certify(model, x, y, 0.1, sound=True, save="never.npz")


def test_the_served_model_agrees(tmp_path):
    """The exported network's own signature, on images that are certified sound at a tiny margin."""
    model = nets.residual()
    x = nets.images(model, 40)
    y = model(x).numpy().argmax(1)
    found = rt.certify(model, x, y, 0.0, sound=True)
    assert found.certified.any()
    export.save(model, tmp_path / "model", certifies=False)
    served = tf.saved_model.load(tmp_path / "model").signatures["serving_default"]
    logits = served(image=tf.constant(x))["logits"].numpy()
    predicted = model.predict(x, verbose=0)
    for values in (logits, predicted):
        margin = np.take_along_axis(values, y[:, None], 1) - values
        assert (found.margin_lower <= margin.astype(np.float64)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "crown"}, "method must be dual or interval where sound is true, got 'crown'"),
        ({"dtype": "float32"}, "dtype must be float64 where sound is true, got 'float32'"),
        ({"inner": "mixed"}, "inner must be dual where sound is true, got 'mixed'"),
        ({"save": "c.npz", "method": "interval"}, "method must be one of dual, crown, alpha"),
        ({"save": "c.npz", "inner": "mixed", "sound": False}, "inner must be dual where save"),
        ({"save": "nowhere/c.npz"}, "save: expected a file in an existing directory, got 'nowhere"),
        (
            {"save": "c.npz", "x": np.zeros((0, 5)), "y": np.zeros(0, int)},
            "save: expected at least",
        ),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_named(change, message):
    model = nets.dense()
    arguments = {"x": nets.images(model, 1), "y": [0], "eps": 0.1, "sound": True} | change
    with pytest.raises(ValueError, match=message):
        rt.certify(model, **arguments)


def test_a_model_of_another_type_is_refused():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2, dtype="float64")])
    with pytest.raises(ValueError, match="sound: expected a model that computes in float32"):
        rt.certify(model, np.zeros((1, 2)), [0], 0.1, sound=True)


def test_a_certificate_names_its_mode():
    model = nets.dense()
    x, y = nets.images(model, 2), [0, 1]
    for options, mode in (
        ({}, "float32"),
        ({"dtype": "float64"}, "float64"),
        ({"sound": True}, "sound"),
    ):
        found = rt.certify(model, x, y, 0.01, **options)
        assert found.mode == mode
        assert f"mode={mode!r}" in repr(found)
        assert found.summary().splitlines()[0].endswith(f"dual bound, {mode}")
