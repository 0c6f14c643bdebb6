"""Maxima in a graph: found where they are, bounded as what they are, and nowhere else."""

import dataclasses
from fractions import Fraction

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from eval.checker import maxima as checked
from eval.checker import network as described
from eval.checker import state as checked_state
from robustra_tf.bounds.balls import ball
from robustra_tf.bounds.interval import propagate
from robustra_tf.bounds.sound import _cut, _State
from robustra_tf.evidence.network import describe
from robustra_tf.graph import build
from robustra_tf.graph.graph import Node, Structure
from robustra_tf.graph.ops import Add, Dense, Input, Relu, Scale
from robustra_tf.graph.selection import Pick
from tests import nets

POOLS = {
    "plain": ({"pool_size": 2}, [(0, 2), (2, 4)]),
    "overlapping": ({"pool_size": 3, "strides": 2}, [(0, 3), (2, 5)]),
    "same": ({"pool_size": 3, "strides": 2, "padding": "same"}, [(0, 2), (1, 4), (3, 5)]),
}


@pytest.mark.parametrize(("options", "spans"), POOLS.values(), ids=POOLS)
def test_intervals_of_pooled_pixels_are_the_maxima_of_their_ends(options, spans):
    inputs = keras.Input((5, 5, 2))
    pooled = layers.MaxPooling2D(**options)(inputs)
    network = build(keras.Model(inputs, layers.Flatten()(pooled))).network(tf.float64)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 5, 5, 2))
    low, high = propagate(network, ball(tf.constant(x), tf.constant(0.3, tf.float64))).logits
    largest = [x[:, a:b, c:d].max((1, 2)) for a, b in spans for c, d in spans]
    expected = np.stack(largest, 1).reshape(2, -1)
    np.testing.assert_allclose(low, expected - 0.3, rtol=0, atol=1e-12)
    np.testing.assert_allclose(high, expected + 0.3, rtol=0, atol=1e-12)


def test_the_checker_sees_the_maxima_that_the_library_sees():
    graph = build(nets.maxima())
    found = graph.structure.maxima
    weights = [variable.numpy() for variable in graph.variables]
    nodes = described.Network(describe(graph), weights).nodes
    assert len(found) == len(graph.structure.relus) - 1  # one ReLU is the model's own
    for index in range(len(nodes)):
        one, other = found.get(index), checked.maximum(nodes, index)
        assert (one is None) == (other is None)
        if one is not None:
            assert other.within == one.within
            sides = (one.first.node, one.second.node)
            assert tuple(node for node, _ in other.sides) == sides


def by_the_checker(centre, width, sides, room):
    states = [checked_state.State(c, w, 0 * c) for c, w in sides]
    found = checked.Maximum(((0, None), (1, None)), ())
    cut = checked.cut(checked_state.State(centre, width, 0 * centre), found, states, room)
    return cut.centre, cut.width


def by_the_library(centre, width, sides, room):
    ends = [_State(*map(tf.constant, (c, w, 0 * c))).ends for c, w in sides]
    ends = tuple(tf.maximum(*end) for end in zip(*ends, strict=True))
    state = _State(*map(tf.constant, (centre, width, 0 * centre)))
    cut = _cut(state, ends, tf.constant(room, tf.float64), recentred=False)
    return cut.centre.numpy(), cut.width.numpy()


@pytest.mark.parametrize("size", [1.0, 2.0**-126])
@pytest.mark.parametrize("cut", [by_the_checker, by_the_library])
def test_a_cut_maximum_holds_whatever_its_sides_may_be(cut, size):
    """In exact arithmetic: the centre is far off, so that the last digits of all decide.

    To what is between the sides' ends comes rounding, and what a ReLU flushes to zero.
    """
    rng = np.random.default_rng(3)
    far, room = size * rng.normal(size=(1, 300)) * 30, size * 1e-9
    sides = [(size * rng.normal(size=far.shape), size * rng.random(far.shape)) for _ in range(2)]
    centre, widths = cut(far, np.full(far.shape, np.inf), sides, room)
    np.testing.assert_array_equal(centre, far)
    hair = Fraction(size) / 10**13
    for k, width in enumerate(widths[0]):
        ends = [
            max(Fraction(c[0, k]) + sign * Fraction(w[0, k]) for c, w in sides) for sign in (-1, 1)
        ]
        off = max(ends[1] - Fraction(far[0, k]), Fraction(far[0, k]) - ends[0])
        off += Fraction(room) + Fraction(2.0**-126)
        assert off <= Fraction(width) <= off * (1 + Fraction(1, 10**13)) + hair
    narrow = np.full(far.shape, 1e-3 * size)
    np.testing.assert_array_equal(cut(far, narrow, sides, room)[1], narrow)


SHAPE = (1, 1, 4)
FIRST, SECOND = (0, 2), (1, 3)


def picks(plus, minus, base, slots=4, read=2):
    """`relu(difference) + base` of picked channels; node 4 is the sum."""
    difference = Pick(SHAPE, (1, 1), (1, 1), plus, minus, slots)
    other = Pick(SHAPE, (1, 1), (1, 1), base, slots=slots)
    shape = difference.out_shape
    nodes = [Node(Input(SHAPE)), Node(difference, (0,)), Node(Relu(shape), (1,)), Node(other, (0,))]
    return Structure((*nodes, Node(Add(shape), (read, 3))))


def sums(scale, shift=0.0, base=2, order=1):
    """`relu(a + (scale b + shift)) + base` of two dense layers; node 6 is the sum."""
    nodes = [
        Node(Input((3,))),
        Node(Dense(3, 2, use_bias=False), (0,), (0,)),
        Node(Dense(3, 2, use_bias=False), (0,), (1,)),
        Node(Scale((2,), constants=(scale, shift)), (2,)),
        Node(Add((2,)), (1, 3)[::order]),
        Node(Relu((2,)), (4,)),
        Node(Add((2,)), (base, 5)),
    ]
    return Structure(tuple(nodes))


def _checked(structure):
    """What the checker takes for maxima, node by node."""
    weights = [np.ones((3, 2), np.float32)] * structure.variable_count
    graph = dataclasses.make_dataclass("Graph", ["structure"])(structure)
    nodes = described.Network(describe(graph), weights).nodes
    return [checked.maximum(nodes, index) for index in range(len(nodes))]


def test_sums_of_that_form_are_maxima():
    assert list(picks(FIRST, SECOND, SECOND).maxima) == [4]
    for order in (1, -1):
        structure = sums(-1.0, order=order)
        assert list(structure.maxima) == [6]
        assert [node for node, _ in _checked(structure)[6].sides] == [1, 2]


@pytest.mark.parametrize(
    "structure",
    [
        picks(FIRST, SECOND, FIRST),
        picks(FIRST, SECOND, SECOND[::-1]),
        picks(FIRST, (), SECOND),
        picks(FIRST, SECOND, SECOND, read=1),
        sums(-2.0),
        sums(1.0),
        sums(-1.0, 0.1),
        sums((-1.0, -1.5)),
        sums(-1.0, base=1),
    ],
)
def test_what_only_looks_like_a_maximum_is_none(structure):
    assert structure.maxima == {}
    assert set(_checked(structure)) == {None}
