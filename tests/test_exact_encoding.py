"""Sparse matrices, the restricted network and its encoding, against dense matrices and samples."""

import dataclasses
import time

import keras
import numpy as np
import pytest
import scipy.sparse as sp
import tensorflow as tf
from keras import layers

from robustra_tf.exact.ascent import forward
from robustra_tf.exact.dense import Columns, dense
from robustra_tf.exact.encoding import certified_bound, encode
from robustra_tf.exact.highs import LinearProgrammes
from robustra_tf.exact.matrices import _compare, affine_map, affine_maps
from robustra_tf.exact.restriction import SLACK
from robustra_tf.exact.substitution import needed_rows, restrict
from robustra_tf.exact.tighten import _widened, enclosed, tightened
from robustra_tf.graph import build
from robustra_tf.graph.graph import Node
from robustra_tf.graph.ops import Add, Dense, Input, Scale
from tests import nets, oracle_nets, oracles
from tests.test_graph_ops import OPS, oracle

EPS = 0.06


@pytest.mark.parametrize("op", [*OPS, Add((2, 3), 2)], ids=str)
def test_sparse_matrices_equal_the_dense_ones(op):
    rng = np.random.default_rng(5)
    weights = [rng.normal(size=shape) for shape in op.weight_shapes]
    if isinstance(op, Scale) and weights:
        weights[-1] = np.abs(weights[-1]) + 0.1
    found = affine_map(op, weights)
    matrix, offset = oracle(op, weights)
    assert found.matrix.format == "csr"
    assert found.matrix.dtype == np.float64
    np.testing.assert_allclose(found.matrix.toarray(), matrix, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(found.offset, offset, rtol=1e-12, atol=1e-13)
    tensors = [tf.constant(weight) for weight in weights]
    dense = op.as_matrix(*tensors, dtype=tf.float64).numpy()
    np.testing.assert_allclose(found.matrix.toarray(), dense, rtol=1e-12, atol=1e-13)
    assert found.matrix.nnz == np.count_nonzero(matrix)


def test_what_is_no_affine_operation_is_refused():
    with pytest.raises(TypeError, match="op: expected an operation of the graph, got Input"):
        affine_map(Input((3,)), [])


def test_weights_that_are_not_numbers_are_refused():
    model = nets.dense()
    model.layers[0].kernel.assign(model.layers[0].kernel.numpy() * np.nan)
    with pytest.raises(ValueError, match="model: expected finite weights, got NaN or infinity"):
        affine_maps(build(model))


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_maps_are_compared_with_their_operations_by_the_size_of_their_numbers(size):
    op, rng = Dense(5, 3), np.random.default_rng(0)
    weights = [size * rng.normal(size=shape) for shape in op.weight_shapes]
    node, right = Node(op, (0,), (0, 1)), affine_map(op, weights)
    _compare(right, node, weights)
    for wrong in (
        right._replace(offset=right.offset * (1 + 1e-9)),
        right._replace(matrix=right.matrix * (1 + 1e-9)),
    ):
        with pytest.raises(ValueError, match="matrices: expected what layer"):
            _compare(wrong, node, weights)


def bottleneck():
    """Four active ReLUs between wide layers: multiplied out, every neuron reads every input."""
    model = keras.Sequential(
        [
            keras.Input((40,)),
            layers.Dense(4, activation="relu"),
            layers.Dense(60, activation="relu"),
            layers.Dense(nets.CLASSES),
        ]
    )
    nets.randomise(model, 8)
    model.layers[0].bias.assign([6.0, 5.0, 6.0, 5.0])
    return model


ALL = nets.ALL | {"bottleneck": bottleneck}


class Case:
    """A network, an image and its restriction."""

    def __init__(self, name, eps=EPS):
        self.name, self.model = name, ALL[name]()
        self.graph = build(self.model)
        self.maps = affine_maps(self.graph)
        self.x = nets.images(self.model, 1, seed=3)[0].astype(np.float64)
        self.flat = self.x.ravel()
        self.low, self.high = np.maximum(self.flat - eps, 0), np.minimum(self.flat + eps, 1)
        self.found = enclosed(
            self.graph.structure,
            self.graph.weights(tf.float64),
            self.x,
            oracles.target_rows(0, nets.CLASSES),
            eps,
            "linf",
            (0.0, 1.0),
        )
        self.restriction = restrict(
            self.graph.structure, self.maps, self.low, self.high, self.found.bounds
        )
        self.encoding = encode(self.restriction, self.flat)
        self.net = oracle_nets.of_model(self.model)

    def samples(self, count=200):
        rng = np.random.default_rng(1)
        inner = rng.uniform(self.low, self.high, (count, len(self.low)))
        corners = np.where(rng.random((count, len(self.low))) < 0.5, self.low, self.high)
        return np.concatenate([inner, corners, self.flat[None]])


@pytest.fixture(scope="module", params=ALL)
def case(request):
    return Case(request.param)


def test_the_restricted_network_is_the_network_on_the_ball(case):
    points = case.samples()
    np.testing.assert_allclose(
        case.restriction.logits(points), case.net.logits(points), rtol=1e-9, atol=1e-9
    )
    _, z = case.restriction.values(points)
    assert (z >= case.restriction.lower).all()
    assert (z <= case.restriction.upper).all()


def test_what_nothing_reads_on_the_way_to_the_logits_is_not_needed():
    """A unit that is dead, one of no weight behind it, and pixels that only these read."""
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, activation="relu"), layers.Dense(2)]
    )
    first = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0.0]])
    last = np.array([[1, 2], [3, 4], [0, 0.0]])
    model.set_weights([first, np.zeros(3), last, np.zeros(2)])
    graph = build(model)
    (relu,) = graph.structure.relus
    ends = np.array([-1.0, -2.0, -1.0]), np.array([1.0, 0.0, 1.0])
    found = needed_rows(graph.structure, affine_maps(graph), {relu: ends})
    expected = [[1, 0, 0, 1], [1, 0, 0], [1, 1, 0], [1, 1]]
    for mask, row in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mask, row)


def test_only_unstable_relus_are_left(case):
    r = case.restriction
    unstable = sum(int(((low < 0) & (high > 0)).sum()) for low, high in case.found.bounds.values())
    assert r.relu.sum() <= unstable
    # The restriction's own intervals decide some of what is left, of maxima most.
    least = 0.25 if case.name == "maxima" else 0.5
    assert ((r.lower < 0) & (r.upper > 0))[r.relu].sum() >= least * r.relu.sum()
    mixed = case.encoding.mixed()
    assert mixed.integer.sum() == len(case.encoding.unstable) <= unstable


def test_a_binary_is_for_a_relu_that_crosses_zero_and_for_no_other_unit():
    """Ends that are exactly 0 decide a ReLU; a unit that is none has nothing to decide."""
    r, rng = Case("dense").restriction, np.random.default_rng(2)
    ends = np.array([[-1, -0.5], [-1, 0], [-1, 1], [0, 1], [0.5, 1], [0, 0]])
    for _ in range(10):
        lower, upper = ends[rng.integers(len(ends), size=r.units)].T
        relu = rng.random(r.units) < 0.6
        given = dataclasses.replace(r, relu=relu, lower=lower, upper=upper)
        found = encode(given, np.full(r.pixels, 0.5))
        units = range(r.units)
        expected = [k for k in units if relu[k] and lower[k] == -1 and upper[k] == 1]
        np.testing.assert_array_equal(found.unstable, expected)
        assert found.relaxed.matrix.shape[0] == r.units + len(expected)
        assert found.mixed().integer.sum() == len(expected)


def test_the_dense_form_computes_the_restriction(case):
    """Half of the units taken for none that are ReLUs."""
    relu = np.random.default_rng(0).random(case.restriction.units) < 0.5
    r, points = dataclasses.replace(case.restriction, relu=relu), case.samples(20)
    columns = Columns.of(r)
    network = dense(columns, case.flat, None, tf.float64)
    found = forward(network, tf.constant(points[:, columns.moving])).numpy()
    u, _ = r.values(points)
    np.testing.assert_allclose(found[:, len(columns.moving) :], u[:, r.pixels :], atol=1e-9)


def test_groups_read_only_what_comes_before(case):
    r = case.restriction
    for group in r.groups:
        columns = r.weights[group].indices
        assert (columns < r.pixels + group.start).all()


def test_pre_activations_get_a_name_where_substitution_would_be_denser():
    named = Case("bottleneck").restriction
    assert (~named.relu).sum() == 4
    # Without names, each of the unstable neurons behind would read all 40 pixels.
    assert named.weights.nnz == 4 * 40 + 4 * named.relu.sum()
    assert Case("conv").restriction.relu.all()


def test_every_input_satisfies_the_encoding_and_its_mixed_form(case):
    mixed = case.encoding.mixed()
    for x in case.samples(20):
        case.encoding.check(x)
        values = case.encoding.assignment(x)
        on = values[case.encoding.column(case.encoding.unstable)] > 0
        whole = np.r_[values, on]
        activity = mixed.matrix @ whole
        assert (activity >= mixed.row_lower - 1e-8).all()
        assert (activity <= mixed.row_upper + 1e-8).all()
        assert (whole >= mixed.lower - 1e-8).all()
        assert (whole <= mixed.upper + 1e-8).all()
        row, constant = case.restriction.margin(oracles.target_rows(0, nets.CLASSES)[1])
        logits = case.net.logits(x)
        margin = case.encoding.cost(row) @ values + constant
        assert margin == pytest.approx(logits[0] - logits[1], abs=1e-8)
        np.testing.assert_allclose(case.encoding.image(values), x, atol=1e-12)


def test_bounds_are_widened_by_their_own_size():
    """Of numbers of any size alike: powers of two are taken out of it exactly."""
    low, high = np.array([-1.0, 0.25, np.nan, -np.inf]), np.array([0.5, 0.75, 1.0, 2.0])
    found = _widened(low, high)
    for end, way in zip(found, (-1, 1), strict=True):
        assert ((end[:2] - (low, high)[way > 0][:2]) * way > 0).all()
    np.testing.assert_array_equal(found[0][2:], -np.inf)
    assert found[1][3] > 2
    for size in (2.0**-90, 2.0**90):
        for end, other in zip(_widened(size * low, size * high), found, strict=True):
            np.testing.assert_array_equal(end, size * other)


def test_an_encoding_that_the_image_does_not_satisfy_is_refused():
    case = Case("two_conv")
    with pytest.raises(ValueError, match="x: expected a clean image inside the ball and the box"):
        case.encoding.check(case.flat + 2 * EPS)
    empty = dataclasses.replace(case.restriction, low=case.high + 0.1, high=case.low)
    with pytest.raises(ValueError, match="x: expected a clean image inside"):
        encode(empty, case.flat).check(case.flat)
    _, z = case.restriction.values(case.flat[None])
    wrong = dataclasses.replace(case.restriction, lower=z[0] + 0.2, upper=z[0] + 0.4)
    with pytest.raises(ValueError, match="encoding: expected the clean image to be feasible"):
        encode(wrong, case.flat).check(case.flat)


def test_linear_programmes_tighten_bounds_and_stay_sound():
    case = Case("two_conv", eps=0.15)
    before = case.restriction
    after, solves = tightened(before, case.flat, None, time.monotonic() + 60)
    assert solves > 0
    assert (after.lower >= before.lower).all()
    assert (after.upper <= before.upper).all()
    width = (after.upper - after.lower).sum() / (before.upper - before.lower).sum()
    assert width < 0.99
    _, z = after.values(case.samples(500))
    assert (z >= after.lower).all()
    assert (z <= after.upper).all()
    # Two programmes for each ReLU that crosses zero and reads others, none for what is stable.
    odd = np.arange(before.units) % 2 > 0
    stable = dataclasses.replace(before, lower=np.where(odd, 1e-3, before.lower))
    opened = ~odd & (np.arange(before.units) >= before.groups[0].stop)
    _, fewer = tightened(stable, case.flat, None, time.monotonic() + 60)
    assert (solves, fewer) == (2 * (before.units - before.groups[0].stop), 2 * opened.sum())
    same, none = tightened(before, case.flat, None, time.monotonic() - 1)
    assert none == 0
    np.testing.assert_array_equal(same.lower, before.lower)


def test_bounds_by_linear_programmes_are_widened_and_by_no_more():
    """By a ten-billionth of 1 and of themselves; HiGHS's vertices are good to less than that."""
    case = Case("dense", eps=0.15)
    before = case.restriction
    after, _ = tightened(before, case.flat, None, time.monotonic() + 60)
    programme, compared = case.encoding.relaxed, 0
    for unit in range(before.groups[0].stop, before.units):
        cost = case.encoding.cost(before.weights[[unit]].toarray()[0])
        session = LinearProgrammes(programme)
        for sign, name in ((1.0, "lower"), (-1.0, "upper")):
            end = getattr(after, name)[unit]
            if end == getattr(before, name)[unit]:
                continue
            session.aim(sign * cost)
            solved = session.solve(programme.lower, programme.upper, 10.0)
            value = float(cost @ solved.values) + before.offset[unit]
            room = sign * (value - end) / (1 + abs(value))
            assert 0.8 * SLACK < room < 1.2 * SLACK
            compared += abs(value) < 1
    assert compared >= 2


@pytest.mark.parametrize("seed", range(5))
def test_a_certified_bound_holds_for_any_duals_and_is_tight_for_the_solvers(seed):
    case = Case("residual", eps=0.1)
    rng = np.random.default_rng(seed)
    programme = case.encoding.relaxed
    row, _ = case.restriction.margin(oracles.target_rows(0, nets.CLASSES)[1 + seed % 2])
    cost = case.encoding.cost(row)
    session = LinearProgrammes(programme)
    session.aim(cost)
    solved = session.solve(programme.lower, programme.upper, 10.0)
    optimum = float(cost @ solved.values)
    ends = (programme.lower, programme.upper)
    assert certified_bound(programme, cost, *ends, solved.duals) == pytest.approx(optimum, abs=1e-6)
    for scale in (0.1, 1.0, 10.0):
        duals = solved.duals + scale * rng.normal(size=len(solved.duals))
        assert certified_bound(programme, cost, *ends, duals) <= optimum + 1e-7
    assert certified_bound(programme, cost, *ends, solved.duals * np.nan) == -np.inf


def test_matrices_are_sparse(case):
    assert all(sp.issparse(found.matrix) for found in case.maps.values())
    assert sp.issparse(case.encoding.relaxed.matrix)


def test_columns_are_the_pixels_that_are_read_and_may_move():
    r = Case("dense").restriction
    unread = np.setdiff1d(np.arange(r.pixels), [*r.weights.indices, *r.logit_weights.indices])
    low, high = r.low.copy(), r.high.copy()
    high[1] = low[1]
    found = Columns.of(dataclasses.replace(r, low=low, high=high))
    expected = np.setdiff1d(np.arange(r.pixels), [1, *unread])
    np.testing.assert_array_equal(found.moving, expected)
    assert found.still[1] == low[1]
