"""What sound bounds rest on: bands around every ReLU, and how far a sum may deviate."""

from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf

from robustra_tf.bounds import rounding
from robustra_tf.bounds.options import BoundOptions
from robustra_tf.bounds.sound import band, outward_ball, sound_margins
from robustra_tf.graph import build
from robustra_tf.graph.graph import Node
from robustra_tf.graph.ops import Dense, Relu, Scale
from tests import judges, nets


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
    proof = sound_margins(graph.network(tf.float64), region, tf.constant(y), BoundOptions("every"))
    near = np.stack([judges.points(image, eps, "linf", (0.0, 1.0), 20, rng)[:12] for image in x])
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
        exact = judges.exact_logits([kernel, bias], v)
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


def test_a_variance_below_zero_is_never_safe():
    """Not even where `epsilon` makes it positive: the root of such a sum has no digits to trust."""
    graph = build(nets.batch_norm())
    node = next(n for n in graph.structure.nodes if isinstance(n.op, Scale) and len(n.weights) > 1)
    for variance, expected in ((-1e-6, False), (0.0, True)):
        weights = graph.weights(tf.float64)
        like = weights[node.weights[-1]]
        weights[node.weights[-1]] = tf.fill(like.shape, tf.constant(variance, tf.float64))
        ones = tf.ones((2, *node.op.shape), tf.float64)
        assert rounding.deviation(node, weights, 1, ones).safe.numpy().tolist() == [expected] * 2
