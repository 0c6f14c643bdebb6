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
from robustra_tf.bounds import rounding
from robustra_tf.bounds.sound import band, outward_ball, sound_margins
from robustra_tf.graph import build
from robustra_tf.graph.graph import Node
from robustra_tf.graph.ops import Dense, Relu
from tests import nets

REGIONS = [("linf", (0.0, 1.0)), ("linf", None), ("l2", None), ("l1", None)]


def chain(sizes, seed=0):
    """Dense layers of these sizes with ReLUs between."""
    model = keras.Sequential([keras.Input(sizes[:1])])
    for units in sizes[1:-1]:
        model.add(layers.Dense(units, activation="relu"))
    model.add(layers.Dense(sizes[-1]))
    return nets.randomise(model, seed)


def exact_logits(weights, x):
    """The logits of a dense chain at one `x`, as fractions: nothing is rounded."""
    values = [Fraction(float(v)) for v in x]
    pairs = list(zip(weights[::2], weights[1::2], strict=True))
    for k, (kernel, bias) in enumerate(pairs):
        columns = [[Fraction(float(w)) for w in column] for column in kernel.T]
        values = [
            sum((w * v for w, v in zip(column, values, strict=True)), Fraction(float(b)))
            for column, b in zip(columns, bias, strict=True)
        ]
        if k < len(pairs) - 1:
            values = [max(v, Fraction(0)) for v in values]
    return values


def exact_margin(weights, x, label):
    """The least `f_y - f_t` over the other classes, as a fraction."""
    logits = exact_logits(weights, x)
    return min(logits[label] - v for t, v in enumerate(logits) if t != label)


def summed_one_by_one(weights, x, order):
    """The logits in float32 with every sum taken term by term in an order of one's own."""
    values = np.asarray(x, np.float32)
    pairs = list(zip(weights[::2], weights[1::2], strict=True))
    for k, (kernel, bias) in enumerate(pairs):
        terms = (values[:, None] * kernel)[order(len(values))]
        total = np.add.accumulate(terms, axis=0, dtype=np.float32)[-1] + bias
        values = np.maximum(total, 0) if k < len(pairs) - 1 else total
    return values


def margin_of(logits, label):
    return logits[label] - np.delete(logits, label).max()


def points(x, eps, norm, box, count, rng):
    """Float32 inputs within a ball: the image, corners for `linf`, and random ones."""
    found = [x]
    for _ in range(count):
        away = rng.choice([-1.0, 1.0], size=x.shape)
        if norm == "linf":
            away *= rng.choice([1.0, rng.uniform()])
        else:
            away *= rng.uniform(size=x.shape)
            away /= np.linalg.norm(away.ravel(), {"l2": 2, "l1": 1}[norm])
        # A little inside, for the sum to stay in the ball once it is rounded to float32.
        near = x.astype(np.float64) + away * eps * (1 - 1e-6)
        near = near if box is None else near.clip(*box)
        near = near.astype(np.float32)
        off = np.abs(near.astype(np.float64) - x).ravel()
        if np.linalg.norm(off, {"linf": np.inf, "l2": 2, "l1": 1}[norm]) <= eps:
            found.append(near)
    return np.stack(found)


def test_float32_certifies_something_false_and_the_sound_mode_does_not():
    """`relu(1e8 - 3.9 x) - 1e8 + 3` at 1 is -0.9; in float32 the 3.9 is lost and 3 comes out."""
    model = chain((1, 1, 2))
    first, last = np.float32([[-3.9]]), np.float32([[1.0, 0.0]])
    model.set_weights([first, np.float32([1e8]), last, np.float32([-1e8 + 8, 5.0])])
    x, y = np.ones((1, 1), np.float32), np.array([0])
    assert exact_margin(model.get_weights(), x[0], 0) < 0
    assert rt.certify(model, x, y, 0.0).certified.all()
    for method in ("dual", "interval"):
        assert not rt.certify(model, x, y, 0.0, sound=True, method=method).certified.any()


def test_float64_certifies_what_the_model_gets_wrong_and_the_sound_mode_does_not():
    """`6 - (relu(1e8 + 4.1 x) - 1e8)` at 1 is 1.9; the model computes in float32 and finds -2."""
    model = chain((1, 1, 2))
    first, last = np.float32([[4.1]]), np.float32([[-1.0, 0.0]])
    model.set_weights([first, np.float32([1e8]), last, np.float32([1e8, -6.0])])
    x, y = np.ones((1, 1), np.float32), np.array([0])
    assert exact_margin(model.get_weights(), x[0], 0) > 1
    assert margin_of(model.predict(x, verbose=0)[0], 0) < 0
    assert rt.certify(model, x, y, 0.0, dtype="float64").certified.all()
    for method in ("dual", "interval"):
        assert not rt.certify(model, x, y, 0.0, sound=True, method=method).certified.any()


def test_the_sound_mode_still_certifies_what_is_clear():
    """The same numbers with a margin of 100: what float32 can lose is far less."""
    model = chain((1, 1, 2))
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
    model = chain((n, 2))
    half = rng.uniform(1, 2, size=n // 2).astype(np.float32)
    kernel = np.zeros((n, 2), np.float32)
    kernel[:, 0] = np.concatenate([half, -half])
    x, y = np.ones((1, n), np.float32), np.array([0])
    orders = [np.arange, lambda k: np.arange(k)[::-1], rng.permutation, rng.permutation]
    certified, differing = 0, 0
    for shift in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0):
        model.set_weights([kernel, np.float32([shift, 0.0])])
        exact = exact_margin(model.get_weights(), x[0], 0)
        computed = [margin_of(summed_one_by_one(model.get_weights(), x[0], o), 0) for o in orders]
        computed.append(margin_of(model(x).numpy()[0], 0))
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
    model = MODELS.setdefault(shape, chain(shape))
    weights = []
    for before, after in itertools.pairwise(shape):
        kernel = rng.normal(size=(before, after)) * 10.0 ** rng.integers(-2, magnitude + 1)
        half = before // 2
        kernel[half : 2 * half] = -kernel[:half] * (1 + 1e-7 * rng.integers(-3, 4, (half, after)))
        weights += [kernel.astype(np.float32)]
        weights += [(rng.choice([-1.0, 0.0, 1.0], size=after) * bias).astype(np.float32)]
    x = rng.uniform(size=shape[0]).astype(np.float32)
    logits = exact_logits(weights, x)
    # Class 0 wins by so many units in the last place of the largest number around.
    largest = max([abs(float(v)) for v in logits] + [bias, 1e-3])
    for t in range(1, len(logits)):
        gap = float(logits[t] - logits[0]) + ulps * largest * 2.0**-23
        weights[-1][t] = np.float32(float(weights[-1][t]) - gap)
    model.set_weights(weights)
    return model, x, rng


COUNTS = {"certified": 0, "float32 false": 0, "float32 wrong": 0, "all": 0}


@settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    shape=st.sampled_from(SHAPES),
    seed=st.integers(0, 2**31),
    magnitude=st.integers(-1, 3),
    bias=st.sampled_from([0.0, 1.0, 1e4, 1e8]),
    ulps=st.sampled_from([-3, 1, 5, 30, 1e3, 1e4, 1e5, 1e6]),
    eps=st.sampled_from([0.0, 1e-7, 1e-4]),
    region=st.sampled_from(REGIONS[::2]),
)
def check_a_nasty_network(shape, seed, magnitude, bias, ulps, eps, region):
    model, x, rng = nasty(shape, seed, magnitude, bias, ulps)
    weights, (norm, box) = model.get_weights(), region
    plain = rt.certify(model, x[None], [0], eps, norm, box)
    found = [
        rt.certify(model, x[None], [0], eps, norm, box, sound=True, method=method)
        for method in ("dual", "interval")
    ]
    near = points(x, eps, norm, box, 6, rng)
    exact = [exact_margin(weights, point, 0) for point in near]
    computed = [margin_of(logits, 0) for logits in model(near).numpy()]
    for order in (np.arange, lambda n: np.arange(n)[::-1], rng.permutation):
        computed += [margin_of(summed_one_by_one(weights, point, order), 0) for point in near]
    COUNTS["all"] += 1
    COUNTS["float32 false"] += bool(plain.certified[0]) and min(exact) <= 0
    COUNTS["float32 wrong"] += bool(plain.certified[0]) and min(computed) <= 0
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
    # The networks are what they should be: some are certified, and float32 is fooled by others.
    assert COUNTS["certified"] >= 50
    assert COUNTS["float32 false"] + COUNTS["float32 wrong"] >= 1


def forward(structure, weights, x):
    """Every node's value, in the dtype of `x`."""
    values = [x]
    for node in structure.nodes[1:]:
        inputs = [values[i] for i in node.inputs]
        if isinstance(node.op, Relu):
            values.append(tf.nn.relu(*inputs))
        else:
            values.append(node.op.forward(*inputs, *(weights[i] for i in node.weights)))
    return values


@pytest.mark.parametrize("name", nets.ALL)
@pytest.mark.parametrize("eps", [0.0, 0.03])
def test_bands_hold_in_float32_and_in_float64(name, eps, rng):
    """Of every layer; at radius 0 nothing but rounding is between the two ends."""
    model = nets.ALL[name]()
    graph = build(model)
    structure = graph.structure
    x, y = nets.images(model, 4), np.array([0, 1, 2, 0])
    region = outward_ball(tf.constant(x, tf.float64), tf.constant(eps, tf.float64), "linf", (0, 1))
    proof = sound_margins(structure, graph.weights(tf.float64), region, tf.constant(y))
    near = np.stack([points(image, eps, "linf", (0.0, 1.0), 20, rng)[:12] for image in x])
    for dtype in (tf.float32, tf.float64):
        flat = tf.constant(near.reshape(-1, *x.shape[1:]), dtype)
        values = forward(structure, graph.weights(dtype), flat)
        for index, found in proof.bands.items():
            z = values[structure.nodes[index].inputs[0]].numpy().astype(np.float64)
            z = z.reshape(4, -1, *found.lower.shape[1:])
            lower, upper = found.lower.numpy()[:, None], found.upper.numpy()[:, None]
            assert (lower <= z).all()
            assert (z <= upper).all()
            slope, intercept = found.slope.numpy()[:, None], found.intercept.numpy()[:, None]
            assert (slope * z <= np.maximum(z, 0)).all()
            assert (np.maximum(z, 0) <= (slope * z + intercept) * (1 + 1e-15) + 1e-15).all()
            if eps == 0:
                assert (upper - lower).max() < 1e-3 * max(1, np.abs(upper).max())
    logits = model(near.reshape(-1, *x.shape[1:])).numpy().reshape(4, -1, nets.CLASSES)
    own = np.take_along_axis(logits, y[:, None, None], 2)
    assert (proof.lower.numpy()[:, None] <= own - logits + 0.0).all()


def test_a_band_encloses_the_relu_exactly():
    """Between bounds of all magnitudes, judged by fractions at both ends and at zero."""
    rng = np.random.default_rng(5)
    lower = np.concatenate([-(10.0 ** rng.uniform(-40, 20, 300)), [0.0, 1.0, -2.0, -1.0, -1e-300]])
    upper = np.concatenate([10.0 ** rng.uniform(-40, 20, 300), [1.0, 2.0, -1.0, 0.0, 1e-300]])
    found = band(tf.constant(lower), tf.constant(upper))
    ends = zip(lower, upper, found.slope.numpy(), found.intercept.numpy(), strict=True)
    for low, high, slope, intercept in ends:
        d, h = Fraction(float(slope)), Fraction(float(intercept))
        assert 0 <= d <= 1
        for z in (Fraction(float(low)), Fraction(float(high))):
            assert d * z <= max(z, Fraction(0)) <= d * z + h
        assert low > 0 or high < 0 or h >= 0


def test_the_deviation_of_a_sum_is_a_bound_in_any_order():
    """Against exact sums, of all magnitudes down to numbers that are flushed to zero."""
    rng = np.random.default_rng(3)
    n = 40
    node = Node(Dense(n, 3), (0,), (0, 1))
    worst = 0.0
    for trial in range(60):
        scale = 10.0 ** rng.uniform(-30, 8) if trial % 2 else 1.0
        kernel = (rng.normal(size=(n, 3)) * scale).astype(np.float32)
        bias = rng.normal(size=3).astype(np.float32) * np.float32(scale)
        v = (rng.normal(size=n) * 10.0 ** rng.uniform(-12, 3)).astype(np.float32)
        v[rng.uniform(size=n) < 0.3] = 0
        weights = [tf.constant(w, tf.float64) for w in (kernel, bias)]
        each, safe = rounding.deviation(node, weights, 1, tf.constant(np.abs(v)[None], tf.float64))
        assert safe.numpy().all()
        exact = exact_logits([kernel, bias], v)
        for order in (np.arange, lambda k: np.arange(k)[::-1], rng.permutation):
            for flush in (False, True):
                terms = v[:, None] * kernel
                if flush:
                    terms[np.abs(terms) < 2.0**-126] = 0
                total = np.add.accumulate(terms[order(n)], axis=0, dtype=np.float32)[-1] + bias
                off = [abs(Fraction(float(t)) - e) for t, e in zip(total, exact, strict=True)]
                bounds = [Fraction(float(e)) for e in each.numpy()[0]]
                assert all(o <= b for o, b in zip(off, bounds, strict=True))
                worst = max(worst, max(float(o / b) for o, b in zip(off, bounds, strict=True)))
    # A bound and no more than one: within a factor of a hundred of what happens.
    assert worst > 0.01


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
    model = chain((2, 2, 2))
    weights = model.get_weights()
    weights[0] = np.full((2, 2), 1e30, np.float32)
    weights[2] = np.float32([[1e30, 0.0], [0.0, 0.0]])
    weights[1], weights[3] = np.zeros(2, np.float32), np.zeros(2, np.float32)
    model.set_weights(weights)
    x, y = np.full((1, 2), 0.5, np.float32), np.array([0])
    assert rt.certify(model, x, y, 0.1, dtype="float64").certified.all()
    for method in ("dual", "interval"):
        found = rt.certify(model, x, y, 0.1, sound=True, method=method)
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
        ({"save": "c.npz", "method": "interval"}, "method must be dual where save is given"),
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
