"""Random networks of every supported layer, of many scales: conversion, transposes and bounds.

Forty networks are drawn here; `make fuzz` draws two thousand, other ones each time. Points and
gradients come from NumPy and the matrix oracle. Each comparison allows for rounding alone: a share
of `magnitudes`, the sums of absolute values where the network has sums.
"""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from robustra_tf.bounds.balls import ball
from robustra_tf.bounds.crown import crown_margins, optimised_margins
from robustra_tf.bounds.interval import interval_margins, propagate
from robustra_tf.bounds.lines import adaptive
from robustra_tf.bounds.margins import margins
from robustra_tf.bounds.options import BoundOptions
from robustra_tf.bounds.refine import refined
from robustra_tf.bounds.slopes import Descent
from robustra_tf.graph import build, convert, lowering
from robustra_tf.graph.graph import Network
from robustra_tf.graph.ops import AffineOp
from tests import oracle_nets, oracles, random_layers, random_models
from tests.points import ascend, corners

BLOCKS = 4
GRAPHS = int(os.environ.get("ROBUSTRA_FUZZ_GRAPHS", "40"))
NIGHTLY = "ROBUSTRA_FUZZ_GRAPHS" in os.environ
MANY = settings(
    max_examples=-(-GRAPHS // BLOCKS),
    deadline=None,
    derandomize=not NIGHTLY,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)

IMAGES = 2
SAMPLED = 10_000 // IMAGES
ATTACKED = 100 // IMAGES
FLOAT32 = 1e-5
FLOAT64 = 1e-12
TINY = 1e-25  # float32 flushes 1e-38 to zero on the way, and later weights enlarge what is lost

pytestmark = pytest.mark.usefixtures("eager")

RADII = st.sampled_from([0.0, 1e-7, 0.01, 0.1, 0.5, 3.0])
BALLS = st.sampled_from(
    [
        ("linf", None),
        ("linf", (0.0, 1.0)),
        ("linf", (0.25, 0.5)),
        ("linf", (-3.0, 7.0)),
        ("l2", None),
        ("l2", (0.0, 1.0)),
        ("l1", None),
        ("l1", (0.0, 1.0)),
    ]
)


def pixels(shape, rng, box):
    """Images in the box, or in [0, 1]; some pixels at its ends, some images constant."""
    low, high = box or (0.0, 1.0)
    x = rng.random((IMAGES, *shape))
    x = np.where(rng.random(x.shape) < 0.3, np.round(x), x)
    if rng.random() < 0.1:
        x[0] = rng.choice([0.0, 0.5, 1.0])
    return low + (high - low) * x


def check_conversion(model, graph, net, rng):
    """The graph and the matrices compute what Keras computes."""
    x = rng.uniform(-1.0, 2.0, size=(5, *model.input_shape[1:])).astype(np.float32)
    expected = keras.ops.convert_to_numpy(model(x, training=False)).astype(np.float64)
    assert np.isfinite(expected).all()
    scale = np.array([net.magnitudes(image.ravel())[-1] for image in x]) + TINY
    assert (np.abs(graph(x).numpy() - expected) <= FLOAT32 * scale).all()
    assert (np.abs(net.logits(x.reshape(len(x), -1)) - expected) <= FLOAT32 * scale).all()


def check_transposes(structure, weights, rng):
    """`<A x, y> = <x, A^T y>` for every affine operation, but for rounding."""
    for node in structure.nodes:
        if not isinstance(node.op, AffineOp):
            continue
        taken = [weights[i] for i in node.weights]
        x = rng.normal(size=(2, *node.op.in_shape))
        y = rng.normal(size=(2, *node.op.out_shape))
        there = (node.op.linear(tf.constant(x), *taken).numpy() * y).sum()
        back = (node.op.transpose(tf.constant(y), *taken).numpy() * x).sum()
        reach = node.op.absolute(tf.constant(np.abs(x)), *taken).numpy()
        assert abs(there - back) <= FLOAT64 * (reach * np.abs(y)).sum()


def explored(net, rng, x, y, eps, norm, box):
    """`SAMPLED` points of the ball, and at least `ATTACKED` on paths to every target and neuron."""
    points = corners(rng, x, eps, norm, box, SAMPLED)
    rows = oracles.target_rows(y, len(net.logits(x)))
    goals = [(-1, rows[np.arange(len(rows)) != y])]
    for node in net.relus:
        size = len(net.values(x)[node])
        units = np.eye(size)[rng.integers(size, size=3)] * rng.choice([-1.0, 1.0], size=(3, 1))
        goals.append((net.nodes[node][1][0], units))
    repeats = -(-ATTACKED // (5 * sum(len(rows) for _, rows in goals)))
    paths = []
    for node, rows in goals:
        rows = np.tile(rows, (repeats, 1))
        starts = np.concatenate([[x], points[: len(rows) - 1]])
        paths.append(ascend(net, rows, x, eps, norm, box, starts, steps=4, node=node))
    attacked = np.concatenate(paths)
    assert len(attacked) >= ATTACKED
    return np.concatenate([x[None], points, attacked])


def found_bounds(structure, weights, region, y, rng):
    """By method: bounds of every layer, {node: (lower, upper)}, and of margins [n, classes]."""
    network = Network(structure, weights), region
    duals = {rows: margins(*network, y, BoundOptions(rows)) for rows in ("every", "needed", "auto")}
    mixed = margins(*network, y, BoundOptions("needed", inner="mixed"))
    intervals, elided = interval_margins(*network, y)
    inner = mixed.enclosure.bounds
    classes = structure.output_shape[0]
    shapes = {k: (IMAGES, classes, *low.shape[1:]) for k, (low, _) in inner.items()}
    drawn = {k: tf.constant(rng.random(shape)) for k, shape in shapes.items()}
    layers = {name: found.enclosure.bounds for name, found in duals.items()}
    layers |= {"mixed": inner, "interval": intervals}
    layers["crown"] = refined(*network, inner, BoundOptions("every"))
    # Of every fourth network: a descent takes as long as everything else.
    if rng.random() < 0.25:
        layers["alpha"] = refined(*network, inner, BoundOptions("needed"), Descent(1))
    uppers = {name: found.upper for name, found in duals.items()}
    uppers |= {
        "mixed": mixed.upper,
        "inner interval": margins(*network, y, BoundOptions(inner="interval")).upper,
        "interval": elided,
        "crown": crown_margins(*network, y, inner, adaptive(inner)),
        "crown, any slopes": crown_margins(*network, y, inner, drawn),
        "alpha": optimised_margins(*network, y, inner, Descent(2)),
    }
    best = layers.get("alpha", layers["crown"])
    uppers["crown on refined"] = crown_margins(*network, y, best, adaptive(best))
    return layers, uppers


def check_bounds(structure, weights, net, rng, eps, norm, box):
    """No sampled or attacked point is outside any method's bounds of any layer or margin."""
    x = pixels(structure.input_shape, rng, box)
    classes = structure.output_shape[0]
    y = rng.integers(classes, size=IMAGES)
    region = ball(tf.constant(x), tf.constant(eps, tf.float64), norm, box)
    layers, uppers = found_bounds(structure, weights, region, tf.constant(y), rng)
    last = len(structure.nodes) - 1
    logits = propagate(Network(structure, weights), region).logits
    for k in range(IMAGES):
        image = x[k].ravel()
        values = net.values(explored(net, rng, image, y[k], eps, norm, box))
        slack = [FLOAT64 * size for size in net.magnitudes(np.abs(image) + eps)]
        ends = [
            (f"{name}, node {index}", structure.nodes[index].inputs[0], pair)
            for name, found in layers.items()
            for index, pair in found.items()
        ]
        for name, node, (lower, upper) in [*ends, ("logits", last, logits)]:
            least, most = values[node].min(0), values[node].max(0)
            assert (least >= lower[k].numpy().ravel() - slack[node]).all(), name
            assert (most <= upper[k].numpy().ravel() + slack[node]).all(), name
        gain = (values[-1] - values[-1][:, [y[k]]]).max(0)
        for name, upper in uppers.items():
            assert (gain <= upper[k].numpy() + slack[-1] + slack[-1][y[k]]).all(), name
            assert upper[k, y[k]] == 0, name


@settings(MANY, max_examples=1, phases=[Phase.generate])
@given(data=st.data())
def test_every_layer_is_drawn_by_its_name(data):
    for name in random_layers.EVERY:
        model = random_models.model(data.draw, [(3, 3, 1)], depth=1, named=name)
        found = {type(layer).__name__ for layer in model._flatten_layers(False, True)}
        assert name in found | {"channels first"}


def test_every_supported_layer_can_be_drawn():
    drawn = {getattr(keras.layers, name, None) for name in random_layers.EVERY}
    usual = {"Add", "BatchNormalization", "Dense", "Flatten", "Normalization", "Rescaling"}
    usual |= {"Reshape", "Softmax"}  # The last one is taken off: `test_heads`.
    usual = {getattr(keras.layers, name) for name in usual}
    identities = {k for k, known in lowering.KNOWN.items() if known.converter is convert._identity}
    assert drawn - {None} == lowering.KNOWN.keys() - usual - identities


@pytest.mark.parametrize("block", range(BLOCKS))
@MANY
@given(data=st.data(), seed=random_models.SEEDS, eps=RADII, balls=BALLS)
def test_no_random_network_breaks_a_promise(block, data, seed, eps, balls):
    rng = np.random.default_rng([seed, block])
    model = random_models.model(data.draw, named=random_models.name(rng))
    graph = build(model)
    weights = graph.weights(tf.float64)
    net = oracle_nets.of_graph(graph.structure, weights)
    check_conversion(model, graph, net, rng)
    check_transposes(graph.structure, weights, rng)
    check_bounds(graph.structure, weights, net, rng, eps, *balls)
