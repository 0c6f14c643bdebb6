"""Soundness: no sampled or attacked point of the ball ever beats a bound, on random networks.

The points come from NumPy, the exact values and gradients from the matrix oracle; only the bounds
are the library's, in float64. `SLACK` allows for rounding alone.
"""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robustra_tf.bounds.balls import ball
from robustra_tf.bounds.crown import crown_margins
from robustra_tf.bounds.interval import interval_margins, propagate
from robustra_tf.bounds.lines import adaptive
from robustra_tf.bounds.margins import margins
from robustra_tf.bounds.options import BoundOptions
from robustra_tf.graph.convolutions import Conv2D
from robustra_tf.graph.graph import Network, Node, Structure
from robustra_tf.graph.ops import Add, Dense, Input, Relu, Reshape
from robustra_tf.objective.robustra import ball_margins, literal, objective
from tests import oracle_nets, oracles
from tests.points import ascend, corners

CLASSES = 3
SLACK = 1e-9
MODEST = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


class Drawn:
    """A random network: its structure, its weights, and the same as matrices."""

    def __init__(self, structure, rng, scale):
        self.structure = structure
        self.weights = []
        for node in structure.nodes:
            for shape in getattr(node.op, "weight_shapes", ()):
                fan_in = np.prod(shape[:-1]) if len(shape) > 1 else 4.0
                self.weights.append(tf.constant(rng.normal(size=shape) * scale / np.sqrt(fan_in)))
        self.net = oracle_nets.of_graph(structure, self.weights)


def chain(ops):
    """A structure of operations one after another, weights numbered in order."""
    nodes, count = [Node(ops[0])], 0
    for op in ops[1:]:
        taken = len(getattr(op, "weight_shapes", ()))
        nodes.append(Node(op, (len(nodes) - 1,), tuple(range(count, count + taken))))
        count += taken
    return Structure(tuple(nodes))


@st.composite
def dense_structures(draw):
    sizes = [4, *draw(st.lists(st.integers(1, 6), max_size=3))]
    ops = [Input((4,))]
    for before, after in itertools.pairwise(sizes):
        ops += [Dense(before, after, draw(st.booleans())), Relu((after,))]
    return chain([*ops, Dense(sizes[-1], CLASSES)])


@st.composite
def convolutions(draw, shape, filters):
    size = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    strides = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    pads = st.tuples(st.integers(0, 1), st.integers(0, 1))
    padding = draw(st.tuples(pads, pads))
    return Conv2D(shape, filters, size, strides, padding)


@st.composite
def convolutional_structures(draw):
    ops = [Input((5, 4, draw(st.integers(1, 2))))]
    for _ in range(draw(st.integers(1, 2))):
        convolution = draw(convolutions(ops[-1].out_shape, draw(st.integers(1, 3))))
        if min(convolution.out_shape) < 1:
            break
        ops += [convolution, Relu(convolution.out_shape)]
    shape = ops[-1].out_shape
    flat = int(np.prod(shape))
    return chain([*ops, Reshape(shape, (flat,)), Dense(flat, CLASSES)])


@st.composite
def residual_structures(draw):
    """Convolution and ReLU, then two branches of different reach that meet before a ReLU."""
    stem = Conv2D((4, 4, 1), 2, (3, 3), (1, 1), ((1, 1), (1, 1)))
    shape = stem.out_shape
    size = draw(st.sampled_from([1, 3]))
    pad = ((size // 2, size // 2),) * 2
    nodes = [
        Node(Input((4, 4, 1))),
        Node(stem, (0,), (0, 1)),
        Node(Relu(shape), (1,)),
        Node(Conv2D(shape, 2, (3, 3), (1, 1), ((1, 1), (1, 1))), (2,), (2, 3)),
        Node(Relu(shape), (3,)),
        Node(Conv2D(shape, 2, (size, size), (1, 1), pad), (4,), (4, 5)),
        Node(Add(shape, 2), (draw(st.sampled_from([2, 4])), 5)),
        Node(Relu(shape), (6,)),
        Node(Reshape(shape, (32,)), (7,)),
        Node(Dense(32, CLASSES), (8,), (6, 7)),
    ]
    return Structure(tuple(nodes))


STRUCTURES = st.one_of(dense_structures(), convolutional_structures(), residual_structures())
SCALES = st.sampled_from([0.3, 1.0, 3.0])
SEEDS = st.integers(0, 2**32 - 1)
RADII = st.sampled_from([0.0, 0.01, 0.1, 0.5])
NORMS, BOXES = ("linf", "l2", "l1"), (None, (0.0, 1.0))
BALLS = st.sampled_from(list(itertools.product(NORMS, BOXES)))


def explored(net, rng, x, y, eps, norm, box):
    """Sampled points, and the paths of attacks towards every target and away from neurons."""
    points = corners(rng, x, eps, norm, box)
    rows = oracles.target_rows(y, CLASSES)[np.arange(CLASSES) != y]
    starts = np.repeat([x, points[0]], len(rows), axis=0)
    paths = ascend(net, np.tile(rows, (2, 1)), x, eps, norm, box, starts)
    return np.concatenate([x[None], points, paths])


def pixels(structure, rng):
    """An image in [0, 1], some of its pixels at the ends."""
    x = rng.random(structure.input_shape)
    return np.where(rng.random(x.shape) < 0.3, np.round(x), x)


@MODEST
@given(STRUCTURES, SEEDS, SCALES, RADII, BALLS)
def test_no_point_beats_a_bound(structure, seed, scale, eps, balls):
    rng, (norm, box) = np.random.default_rng(seed), balls
    drawn, x, y = Drawn(structure, rng, scale), pixels(structure, rng), int(rng.integers(CLASSES))
    region = ball(tf.constant(x[None]), tf.constant(eps, tf.float64), norm, box)
    labels = tf.constant([y])
    network = Network(structure, drawn.weights), region
    dual = margins(*network, labels, BoundOptions("every"))
    few = margins(*network, labels, BoundOptions("needed"))
    layers, logits = propagate(*network)
    mixed = margins(*network, labels, BoundOptions("every", inner="mixed"))
    slopes = adaptive(mixed.enclosure.bounds)
    uppers = [
        dual.upper,
        few.upper,
        mixed.upper,
        margins(*network, labels, BoundOptions(inner="interval")).upper,
        interval_margins(*network, labels).upper,
        crown_margins(*network, labels, mixed.enclosure.bounds, slopes),
    ]

    values = drawn.net.values(explored(drawn.net, rng, x.ravel(), y, eps, norm, box))
    reach = max(np.abs(value).max() for value in values) + 1.0
    slack = SLACK * reach
    for found in (dual.enclosure.bounds, few.enclosure.bounds, mixed.enclosure.bounds, layers):
        for index, (lower, upper) in found.items():
            value = values[structure.nodes[index].inputs[0]]
            assert (value >= lower.numpy().ravel() - slack).all()
            assert (value <= upper.numpy().ravel() + slack).all()
    assert (values[-1] >= logits[0].numpy() - slack).all()
    assert (values[-1] <= logits[1].numpy() + slack).all()
    gain = (values[-1] - values[-1][:, [y]]).max(0)
    for upper in uppers:
        assert (gain <= upper[0].numpy() + slack).all()


@MODEST
@given(STRUCTURES, SEEDS, SCALES, RADII, st.sampled_from(NORMS))
def test_no_point_of_the_reference_space_beats_equation_8(structure, seed, scale, eps, norm):
    """For every `eta >= 0` and `t`: `h_c(eta) >= max c.f` over sampled `c.g >= t`."""
    rng = np.random.default_rng(seed)
    f, g = Drawn(structure, rng, scale), Drawn(structure, rng, 1.0)
    x, y = pixels(structure, rng), int(rng.integers(CLASSES))
    labels, radius = tf.constant([y]), tf.constant(eps, tf.float64)
    how = BoundOptions(norm=norm)
    sides = [
        ball_margins(Network(structure, drawn.weights), tf.constant(x[None]), labels, radius, how)
        for drawn in (f, g)
    ]
    chosen = objective(*sides, radius, norm)

    paths = [explored(drawn.net, rng, x.ravel(), y, eps, norm, None) for drawn in (f, g)]
    points = np.concatenate(paths)
    gains = [(value - value[:, [y]]) for value in (f.net.logits(points), g.net.logits(points))]
    slack = SLACK * (1.0 + max(np.abs(gain).max() for gain in gains))

    def attacked(t):
        """The largest sampled `c.f` with `c.g >= t`, -inf where there is no such point."""
        return np.where(gains[1] >= t, gains[0], -np.inf).max(0)

    others = np.arange(CLASSES) != y
    etas = [np.zeros(CLASSES), chosen.eta[0].numpy(), *10.0 ** rng.uniform(-2, 1, size=(4, 1))]
    thresholds = [np.quantile(gains[1], q, axis=0) for q in (0.0, 0.5, 0.9, 1.0)]
    for t in (*thresholds, chosen.t0[0].numpy(), rng.normal(size=CLASSES)):
        for eta in etas:
            eta = np.broadcast_to(eta, CLASSES)
            chosen_by_hand = tf.constant(eta[None]), tf.constant(t[None])
            bound = literal(*sides, radius, *chosen_by_hand, norm).numpy()
            assert (attacked(t) <= bound[0] + slack * (1 + eta.max()))[others].all()
    assert (attacked(chosen.t0[0].numpy()) <= chosen.h[0].numpy() + slack)[others].all()
    assert (chosen.h <= chosen.wk + slack).numpy().all()
    assert (chosen.eta >= 0).numpy().all()


@MODEST
@given(dense_structures().filter(lambda found: found.relus), SEEDS)
def test_first_layer_is_ordered_as_the_balls_are(structure, seed):
    """At one radius l_1 lies in l_2 lies in l_inf, and the first layer's bounds are exact.

    Nothing of the kind holds behind it: tighter layers change the slopes of the later ones.
    """
    rng = np.random.default_rng(seed)
    drawn, x = Drawn(structure, rng, 1.0), tf.constant(pixels(structure, rng)[None])
    found = []
    for norm in ("l1", "l2", "linf"):
        region = ball(x, tf.constant(0.2, tf.float64), norm)
        network, every = Network(structure, drawn.weights), BoundOptions("every")
        bounds = margins(network, region, tf.constant([0]), every).enclosure.bounds
        found.append([end.numpy() for end in bounds[structure.relus[0]]])
    for (low, high), (lower, higher) in itertools.pairwise(found):
        assert (low >= lower - SLACK).all()
        assert (high <= higher + SLACK).all()


@pytest.mark.parametrize(("norm", "order"), [("linf", np.inf), ("l2", 2), ("l1", 1)])
def test_points_stay_in_the_ball_and_reach_its_border(rng, norm, order):
    """Without this the tests above could be vacuous."""
    x = rng.random(6)
    points = corners(rng, x, 0.3, norm, None)
    size = np.linalg.norm(points - x, order, axis=1)
    assert (size <= 0.3 + 1e-12).all()
    assert (size > 0.299).mean() > 0.5
    boxed = corners(rng, x, 0.3, norm, (0.0, 1.0))
    assert ((boxed >= 0) & (boxed <= 1)).all()


def test_bounds_are_not_far_from_what_attacks_reach(rng):
    """A bound of infinity would be sound: on small balls the dual is close to the attack."""
    structure = chain([Input((4,)), Dense(4, 6), Relu((6,)), Dense(6, CLASSES)])
    drawn, x = Drawn(structure, rng, 1.0), pixels(structure, rng)
    eps = 1e-3
    region = ball(tf.constant(x[None]), tf.constant(eps, tf.float64))
    network = Network(structure, drawn.weights)
    upper = margins(network, region, tf.constant([0]), BoundOptions("every")).upper[0].numpy()
    values = drawn.net.logits(explored(drawn.net, rng, x, 0, eps, "linf", None))
    gain = (values - values[:, [0]]).max(0)
    clean = drawn.net.logits(x) - drawn.net.logits(x)[0]
    np.testing.assert_allclose(upper - clean, gain - clean, rtol=0.1, atol=1e-9)
