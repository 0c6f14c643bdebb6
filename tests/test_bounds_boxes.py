"""Bounds on many boxes of few inputs: above every value, never looser than intervals."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.optimize import linprog

from robustra_tf.bounds.balls import ball
from robustra_tf.bounds.boxes import Boxes, bound_boxes
from robustra_tf.bounds.clips import Clip, greatest
from robustra_tf.bounds.forward import Between
from robustra_tf.bounds.interval import propagate
from robustra_tf.graph import build
from robustra_tf.graph.graph import Network
from tests import exact_networks, nets

MANY = 10**6
SKIPS = ("skip_to_a_relu", "unequal_depth", "relu_at_the_end", "shared_block")


def network_of(model):
    graph = build(model)
    return Network(graph.structure, graph.weights(tf.float64))


def small(name):
    """A small network by its name, of `nets` or of `exact_networks`."""
    if name in SKIPS:
        return network_of(exact_networks.network(name, "as drawn"))
    return network_of(nets.randomise(nets.ALL[name](), 3))


def boxes_in(network, moving, seed, n=6, width=0.6):
    rng = np.random.default_rng(seed)
    shape = network.structure.input_shape
    places = np.sort(rng.permutation(int(np.prod(shape)))[:moving])
    still = rng.uniform(0, 1, int(np.prod(shape)))
    still[places] = 0.0
    low = rng.uniform(0, 1, (n, moving))
    high = low + width * rng.random((n, moving)) * (rng.random((n, moving)) < 0.8)
    return Boxes(
        tf.constant(still.reshape(shape)),
        tf.constant(places, tf.int32),
        tf.constant(low),
        tf.constant(high),
    )


def rows_of(network, seed):
    rng = np.random.default_rng(seed)
    return tf.constant(rng.normal(size=(3, *network.structure.output_shape)))


@pytest.mark.parametrize("most", [4, MANY])
@pytest.mark.parametrize("name", ["dense", "conv", "residual", "maxima", *SKIPS])
def test_no_point_of_a_box_is_above_its_bounds(name, most):
    network, rng = small(name), np.random.default_rng(5)
    boxes, rows = boxes_in(network, 2, 1), rows_of(network, 2)
    found = bound_boxes(network, boxes, rows, most)
    low, high, middle = (part.numpy() for part in (boxes.low, boxes.high, boxes.middle))
    for _ in range(30):
        t = rng.random(low.shape) if rng.random() < 0.5 else rng.integers(0, 2, low.shape)
        points = low + t * (high - low)
        values, inputs = [], boxes.inputs(tf.constant(points))
        values.append(inputs)
        for node in network.structure.nodes[1:]:
            values.append(node.compute(values, network.weights))
        reached = values[-1].numpy() @ rows.numpy().T
        slope = np.einsum("nrk,nk->nr", found.slope.numpy(), points - middle)
        assert (reached <= found.constant.numpy() + slope + 1e-9).all()
        for index, (below, above) in zip(network.structure.relus, found.ends, strict=True):
            z = values[network.structure.nodes[index].inputs[0]].numpy()
            assert (below.numpy() - 1e-9 <= z).all()
            assert (z <= above.numpy() + 1e-9).all()


def programme(constant, slope, value, normal):
    """`max constant + slope . t` where `value + normal . t <= 0`, by linear programming."""
    found = linprog(-slope, A_ub=normal[None], b_ub=[-value], bounds=[(-1, 1)] * len(slope))
    return constant - found.fun if found.status == 0 else -np.inf


def test_of_a_clipped_box_the_greatest_value_is_that_of_the_programme():
    rng, empty = np.random.default_rng(4), 0
    constant, slope = rng.normal(size=40), rng.normal(size=(40, 3))
    box = rng.integers(0, 12, 40)
    value, normal = 1.5 * rng.normal(size=12), rng.normal(size=(12, 3))
    normal[::4, 1] = slope[::5, 2] = 0.0
    given = Clip(tf.constant(value), tf.constant(normal))
    found = greatest(given, *map(tf.constant, (constant, slope)), tf.constant(box)).numpy()
    for row, own in enumerate(box):
        exact = programme(constant[row], slope[row], value[own], normal[own])
        if np.isfinite(exact):
            np.testing.assert_allclose(found[row], exact, rtol=1e-9, atol=1e-9)
        empty += not np.isfinite(exact)
    assert 0 < empty < 30


def test_clips_of_zeros_and_of_no_numbers_leave_the_whole_box():
    slope, constant = np.array([[1.0, -2.0]] * 5), np.full(5, 0.5)
    value = np.array([0.0, np.nan, 1.0, -np.inf, np.inf])
    normal = np.array([[0.0, 0.0], [1.0, 1.0], [np.nan, np.inf], [1.0, 0.0], [1e-320, 0.0]])
    given = Clip(tf.constant(value), tf.constant(normal))
    found = greatest(given, tf.constant(constant), tf.constant(slope), tf.range(5))
    np.testing.assert_array_equal(found, np.full(5, 3.5))
    np.testing.assert_array_equal(
        greatest(None, tf.constant(constant), tf.constant(slope), tf.range(5)), found
    )
    slope[:] = np.nan
    assert np.isnan(greatest(given, tf.constant(constant), tf.constant(slope), tf.range(5))).all()


@pytest.mark.parametrize("name", ["dense", "conv", "residual", "maxima", *SKIPS])
def test_no_point_that_counts_is_above_the_bounds_of_clipped_boxes(name):
    network, rng = small(name), np.random.default_rng(6)
    boxes, rows = boxes_in(network, 2, 1, width=2.0), rows_of(network, 2)
    value, normal = rng.uniform(-0.5, 0.5, 6), rng.normal(size=(6, 2))
    clipped = boxes._replace(clip=Clip(tf.constant(value), tf.constant(normal)))
    whole, found = (bound_boxes(network, each, rows, MANY) for each in (boxes, clipped))
    low, high, middle = (part.numpy() for part in (boxes.low, boxes.high, boxes.middle))
    counted = 0
    for _ in range(60):
        t = 2 * rng.random(low.shape) - 1
        t = np.sign(t) if rng.random() < 0.5 else t
        counts = value + (normal * t).sum(1) <= 0
        counted += counts.sum()
        points = middle + 0.5 * t * (high - low)
        values = [boxes.inputs(tf.constant(points))]
        for node in network.structure.nodes[1:]:
            values.append(node.compute(values, network.weights))
        reached = values[-1].numpy() @ rows.numpy().T
        bound = found.constant.numpy() + np.einsum("nrk,nk->nr", found.slope, points - middle)
        assert (reached <= bound + 1e-9)[counts].all()
        for index, (below, above) in zip(network.structure.relus, found.ends, strict=True):
            z = values[network.structure.nodes[index].inputs[0]].numpy()
            assert (below.numpy() - 1e-9 <= z)[counts].all()
            assert (z <= above.numpy() + 1e-9)[counts].all()
    assert counted > 60
    widths = [
        sum(float(tf.reduce_sum(high - low)) for low, high in each.ends) for each in (whole, found)
    ]
    assert widths[1] < widths[0]


def test_ends_are_within_intervals_and_tighter_behind_two_relus():
    network = small("conv")
    boxes = boxes_in(network, 4, 7)
    found = bound_boxes(network, boxes, rows_of(network, 0), MANY)
    few = bound_boxes(network, boxes, rows_of(network, 0), 2)
    centre = boxes.inputs(boxes.middle)
    radius = boxes._replace(still=tf.zeros_like(boxes.still)).inputs(boxes.radius)
    plain = propagate(network, ball(centre, radius)).bounds
    for index, ends, loose in zip(network.structure.relus, found.ends, few.ends, strict=True):
        widths = [(high - low).numpy() for low, high in (ends, loose, plain[index])]
        assert (widths[0] <= widths[1] + 1e-9).all()
        assert (widths[1] <= widths[2] + 1e-9).all()


def test_ends_are_what_both_functions_and_the_interval_leave():
    """By the corners of the box; either of them is the tighter one somewhere, at both ends."""
    rng = np.random.default_rng(3)
    middle, gap = rng.normal(size=(40, 4, 3)), rng.random((40, 4, 3))
    gap[:, -1] *= 3
    corners = np.array([(a, b, 1.0) for a in (-1, 1) for b in (-1, 1)])
    low, high = (
        np.einsum("cj,njs->cns", corners, end[:, :3]) for end in (middle - gap, middle + gap)
    )
    below, above = middle[:, 3] - gap[:, 3], middle[:, 3] + gap[:, 3]
    found = Between(tf.constant(middle), tf.constant(gap)).ends
    np.testing.assert_allclose(found[0], np.maximum(low.min(0), below))
    np.testing.assert_allclose(found[1], np.minimum(high.max(0), above))
    assert 0.2 < np.mean(low.min(0) > below) < 0.8
    assert 0.2 < np.mean(high.max(0) < above) < 0.8


def test_a_box_without_width_has_the_value_itself():
    network = small("residual")
    boxes = boxes_in(network, 3, 4)
    boxes = boxes._replace(high=boxes.low)
    rows = rows_of(network, 1)
    found = bound_boxes(network, boxes, rows, MANY)
    value = network(boxes.inputs(boxes.low)).numpy() @ rows.numpy().T
    np.testing.assert_allclose(found.constant.numpy(), value, rtol=1e-9, atol=1e-9)
    assert (found.crossing.numpy() == 0).all()


def test_of_an_affine_network_the_bound_is_the_function_itself():
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    network = network_of(nets.randomise(model, 1))
    boxes, rows = boxes_in(network, 2, 4), rows_of(network, 1)
    found = bound_boxes(network, boxes, rows, MANY)
    kernel, bias = (weight.numpy() for weight in network.weights)
    middle = boxes.inputs(boxes.middle).numpy()
    np.testing.assert_allclose(found.constant, (middle @ kernel + bias) @ rows.numpy().T)
    slope = (kernel @ rows.numpy().T).T[:, boxes.places.numpy()]
    np.testing.assert_allclose(found.slope, np.broadcast_to(slope, (6, 3, 2)))
    np.testing.assert_array_equal(found.crossing, np.zeros(6))
    assert found.ends == []
    assert not found.loose.numpy().any()


def test_nothing_follows_from_overflow():
    network = small("dense")
    large = [weight * 1e200 for weight in network.weights]
    boxes = boxes_in(network, 3, 4)
    found = bound_boxes(network.with_weights(large), boxes, rows_of(network, 1), MANY)
    reach = np.abs(found.slope.numpy()).sum(2)
    assert not np.isfinite(-found.constant.numpy() - reach).any()


def _one(slope, constant):
    """`slope e + constant` of one e in [-1, 1], both functions and the interval."""
    middle, gap = [slope, constant, constant], [0.0, 0.0, abs(slope)]
    return Between(*(tf.constant(part, tf.float64)[None, :, None] for part in (middle, gap)))


def _past(between, low, high):
    """Slope and constant of both functions behind a ReLU of numbers in [low, high]."""
    ends = (tf.constant([[end]], tf.float64) for end in (low, high))
    return [each.values[0, :, 0].numpy() for each in between.past_relu(*ends)._functions]


def test_a_lower_function_is_kept_where_more_of_it_is_above_zero():
    for constant, kept in ((0.2, 1.0), (-0.2, 0.0)):
        below, _ = _past(_one(1.0, constant), constant - 1, constant + 1)
        np.testing.assert_allclose(below, [kept, kept * constant])


def test_of_two_lines_above_the_one_that_is_lower_in_the_middle_is_taken():
    """Through the function's own ends 2 +- 4.5, or through what is known of the numbers."""
    for low, high in ((-1.5, 6.0), (-9.0, 30.0)):
        chords = [(b / (b - a), -a * b / (b - a)) for a, b in ((low, high), (-2.5, 6.5))]
        slope, rise = min(chords, key=lambda line: 2 * line[0] + line[1])
        _, above = _past(_one(4.5, 2.0), low, high)
        np.testing.assert_allclose(above, [4.5 * slope, 2 * slope + rise])


def test_a_relu_of_numbers_that_are_never_negative_is_the_identity():
    """The function alone might be: `0.8 e + 0.5` of numbers that are known to be at least 0."""
    for low, kept in ((0.0, [0.8, 0.5]), (-1e-9, [0.8, 0.5])):
        below, above = _past(_one(0.8, 0.5), low, 1.3)
        np.testing.assert_allclose(below, kept)
        assert (np.abs(above - [0.8, 0.5]).max() == 0) == (low == 0)
    below, above = _past(_one(0.8, 0.1), 0.0, 0.9)
    np.testing.assert_array_equal([below, above], [[0.8, 0.1]] * 2)
    below, _ = _past(_one(0.8, -0.1), 0.0, 0.7)
    np.testing.assert_array_equal(below, [0.8, -0.1])
