"""Rows that pass ReLUs by calls: the same bounds and gradients, and a graph that stays small."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from robustra_tf.bounds import cost, runs
from robustra_tf.bounds.balls import ball
from robustra_tf.bounds.dual import fuses, trace, unit_rows
from robustra_tf.bounds.enclosure import enclose
from robustra_tf.bounds.frames import Every
from robustra_tf.bounds.layer_rows import Below, LayerRows
from robustra_tf.bounds.margins import margins
from robustra_tf.bounds.options import BoundOptions
from robustra_tf.bounds.radius import Known, row_radius
from robustra_tf.bounds.rows import WholeRows, WindowRows
from robustra_tf.certificates.compiled import Inputs, margins_bound
from robustra_tf.graph import Network, build
from tests import nets
from tests.oracles import assert_close


def ladder():
    """A skip of windows, and ReLUs side by side with a skip over both."""
    inputs = keras.Input((5, 5, 1))
    first = layers.Conv2D(2, 3, padding="same", activation="relu")(inputs)
    second = layers.Conv2D(2, 2, padding="same")(first)
    hidden = layers.Flatten()(layers.ReLU()(layers.Add()([first, second])))
    sides = [layers.Dense(50, activation="relu")(hidden) for _ in "lr"]
    hidden = layers.Add()([*sides, hidden])
    return nets.randomise(keras.Model(inputs, layers.Dense(nets.CLASSES)(hidden)), 5)


def stack(depth, width=4):
    """Dense layers of a few units."""
    hidden = [layers.Dense(width, activation="relu") for _ in range(depth - 1)]
    model = keras.Sequential([keras.Input((width,)), *hidden, layers.Dense(nets.CLASSES)])
    return nets.randomise(model, depth)


@pytest.mark.parametrize(
    ("make", "count", "rows", "norm", "budget"),
    [
        (ladder, 1, "every", "linf", 2.0**13),
        (lambda: stack(4), 3, "auto", "l2", 2.0**28),
    ],
    ids=["sliced", "picked"],
)
def test_calls_leave_bounds_and_gradients_as_they_are(make, count, rows, norm, budget, monkeypatch):
    model = make()
    graph = build(model)
    x, y = tf.constant(nets.images(model, count, seed=3), tf.float64), tf.range(count)
    weights = graph.weights(tf.float64)

    def found(weights):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            region = ball(x, tf.constant(0.05, x.dtype), norm)
            network = Network(graph.structure, weights)
            result = margins(network, region, y, BoundOptions(rows, budget))
            total = tf.reduce_sum(tf.square(result.upper))
        gradient = tape.gradient(total, weights, unconnected_gradients="zero")
        return result.upper, result.rows, list(result.enclosure.bounds.values()), gradient

    def results(shallow):
        monkeypatch.setattr(runs, "SHALLOW", shallow)
        traced = tf.function(found, autograph=False).get_concrete_function(weights)
        operations = {operation.type for operation in traced.graph.get_operations()}
        return tf.nest.flatten(traced(*weights)), "PartitionedCall" in operations

    monkeypatch.setattr(cost, "SMALL", 0)  # where rows are few, "auto" would decide nothing
    (spelled, without), (called, by_calls) = results(10**9), results(0)
    assert by_calls
    assert not without
    for ours, expected in zip(called, spelled, strict=True):
        assert_close(ours, expected, 1e-11)


def operations(depth):
    """How many operations a certificate's bound has, those of its functions included."""
    model = stack(depth)
    graph = build(model)
    function = margins_bound(graph.structure, "dual", (0.0, 1.0), BoundOptions())
    x = tf.constant(nets.images(model, 2, seed=1), tf.float32)
    inputs, rows = Inputs(x, tf.constant(0.01), None), tf.zeros((2, nets.CLASSES, nets.CLASSES))
    traced = function.get_concrete_function(graph.weights(), inputs, rows, rows[:, 0])
    library = traced.graph.as_graph_def().library.function
    return len(traced.graph.get_operations()) + sum(len(f.node_def) for f in library)


def test_the_graph_grows_linearly_with_depth():
    """Spelled out, twice the depth has nearly four times the operations."""
    counts = [operations(depth) for depth in (12, 24)]
    assert counts[1] < 2.4 * counts[0]


def test_parts_are_the_run():
    """Digits and halves follow each other from the last node to the first, cut at ReLUs."""
    whole = runs.whole_run(build(stack(12)).structure)
    for high, name in itertools.product((len(whole.nodes), whole.relus[-1]), ("digits", "halves")):
        run = whole.part(0, high)
        parts = list(getattr(run, name))
        ends = [high, *(low for low, _ in parts)]
        assert ends[-1] == 0
        assert parts == [(low, up) for up, low in itertools.pairwise(ends)]
        assert set(ends[1:-1]) <= set(run.relus)
    counts = [len(whole.part(*part).relus) for part in whole.digits]
    np.testing.assert_array_equal(counts, [0, 1, 2, 8])


def test_what_stands_alone_in_a_part_reads_a_node_of_the_part():
    """Such a ReLU and what it reads are passed together: both have to be there."""
    structure = build(ladder()).structure
    whole = runs.whole_run(structure)
    kinds = set()
    for low, high in itertools.combinations(range(len(whole.nodes) + 1), 2):
        expected = {
            at - low
            for at in structure.relus
            if low < at <= high
            and structure.nodes[at].inputs[0] > low
            and structure.consumers[structure.nodes[at].inputs[0]] == (at,)
        }
        assert whole.part(low, high).alone == expected
        kinds.add(len(expected))
    assert len(kinds) > 2


def test_rows_of_one_kernel_pass_a_relu_and_a_convolution_by_one_product():
    """Strips of pixel rows are left; with rows for every image there would be none."""
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(2, 3, activation="relu"),
            layers.Conv2D(2, 2, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(nets.CLASSES),
        ]
    )
    network = build(nets.randomise(model, 2)).network(tf.float64)
    around = ball(tf.fill((2, 6, 6, 1), tf.constant(0.5, tf.float64)), tf.constant(0.1, tf.float64))
    relaxations = enclose(network, around, BoundOptions("every")).relaxations
    last = network.structure.nodes[network.structure.relus[1]].inputs[0]
    index, rows = unit_rows(network, last, 0, 2)
    assert fuses(network.structure, last)
    found = trace(network, relaxations, index, rows, Every())
    assert len(found.rows.strips) == found.rows.window.size[0]
    every = WindowRows(tf.repeat(rows.values, 2, 0), rows.window)
    plain = trace(network, relaxations, index, every, Every())
    assert not plain.rows.strips
    np.testing.assert_allclose(found.error, plain.error)
    np.testing.assert_allclose(found.rows.values, plain.rows.values, atol=1e-12)


def test_whoever_visits_sees_every_relu_of_a_deep_network_too():
    """Calls would hide them."""
    network = build(stack(12)).network(tf.float64)
    around = ball(tf.fill((2, 4), tf.constant(0.5, tf.float64)), tf.constant(0.1, tf.float64))
    relaxations = enclose(network, around, BoundOptions("every")).relaxations
    rows = WholeRows(tf.eye(nets.CLASSES, dtype=tf.float64)[None], (nets.CLASSES,))
    seen = []

    def visit(at, rows):
        seen.append(at)
        return rows.with_values(2.0 * rows.values)

    last = len(network.structure.nodes) - 1
    plain = trace(network, relaxations, last, rows, Every())
    found = trace(network, relaxations, last, rows, Every(), visit)
    relus = network.structure.relus
    assert runs.pays_as_calls(network.structure)
    assert seen == [*reversed(relus), 0]
    # What a visit returns is gone on with.
    np.testing.assert_allclose(found.rows.values, 2.0 ** len(seen) * plain.rows.values)


@pytest.mark.parametrize("depth", [3, 12])
def test_every_row_is_traced_where_that_is_asked_for(depth):
    """Also those of neurons that are stable, and of deep networks, whose few rows are cheap."""
    network = build(stack(depth)).network(tf.float64)
    around = ball(tf.fill((2, 4), tf.constant(0.5, tf.float64)), tf.constant(0.01, tf.float64))
    relaxations = enclose(network, around, BoundOptions("every")).relaxations
    index = network.structure.nodes[network.structure.relus[-1]].inputs[0]
    one = tf.ones((2, 4), tf.float64)
    stable = Known(9 * one, one)
    found, interval = (
        row_radius(network, around, relaxations, index, stable, BoundOptions(rows)).numpy()
        for rows in ("every", "needed")
    )
    np.testing.assert_array_equal(interval, one)
    assert (found < 0.5).all()


@pytest.mark.parametrize("depth", [3, 12])
def test_rows_are_kept_for_the_gradient_where_they_may_be_picked_out(depth):
    """Of dense layers; calls pass more rows than anyone reads, of which none are kept."""
    network = build(stack(depth)).network(tf.float64)
    around = ball(tf.fill((2, 4), tf.constant(0.5, tf.float64)), tf.constant(0.01, tf.float64))
    relaxations = enclose(network, around, BoundOptions("every")).relaxations
    index = network.structure.nodes[network.structure.relus[-1]].inputs[0]
    layer = LayerRows(network.structure, index, "linf", 2, 2.0**28, 8)
    below = Below(network, *around[:2], around.room, relaxations)
    kept = layer.every(below).kept
    assert set(kept) == (set() if depth == 12 else {*network.structure.relus[:-1], 0})
