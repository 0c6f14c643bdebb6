"""Refined bounds of inner layers: against dense formulas, linear programmes, and differences."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from robustra_tf.bounds import cost, layer_rows, refine, runs
from robustra_tf.bounds.balls import Ball, ball
from robustra_tf.bounds.enclosure import enclose
from robustra_tf.bounds.frames import Every
from robustra_tf.bounds.options import BoundOptions
from robustra_tf.bounds.refine import behind_relus, refined
from robustra_tf.bounds.relu import unstable
from robustra_tf.bounds.rows import WholeRows
from robustra_tf.bounds.slopes import HELD, Descent, Recorder, free, lowest
from robustra_tf.graph import Network, build
from tests import nets, oracle_nets, oracles
from tests.oracle_lp import Programme
from tests.oracles import assert_close
from tests.test_bounds_runs import ladder

COUNT = 2
BALLS = {"box": (0.2, "linf", (0.0, 1.0)), "l2": (0.4, "l2", None), "l1": (0.8, "l1", None)}
CASES = [("dense", "box"), ("two_conv", "l1"), ("residual", "l2")]
PROGRAMMES = CASES[:2]  # of l2 balls there are none


@functools.cache
def compiled(structure, norm, rows):
    """(weights, centre, radius, steps) -> bounds by the dual, CROWN's slopes, optimised slopes."""

    @tf.function(autograph=False)
    def run(weights, centre, radius, steps):
        network, region = Network(structure, weights), Ball(centre, radius, norm)
        options = BoundOptions(rows)
        found = [enclose(network, region, options).bounds]
        for descent in (None, Descent(steps)):
            found.append(refined(network, region, found[-1], options, descent))
        return [[bounds[k] for k in structure.relus] for bounds in found]

    return run


class Case:
    """A tiny network, images and balls in float64, and the bounds of the last to be refined."""

    def __init__(self, name, region, rows="needed"):
        self.model = nets.ALL[name]()
        self.net, graph = oracle_nets.of_model(self.model), build(self.model)
        self.structure, weights = graph.structure, graph.weights(tf.float64)
        self.x = nets.images(self.model, COUNT, seed=5).astype(np.float64)
        self.eps, self.norm, self.box = BALLS[region]
        self.ball = ball(tf.constant(self.x), tf.constant(self.eps, tf.float64), *BALLS[region][1:])
        self.network = Network(self.structure, weights)
        run = compiled(self.structure, self.norm, rows)
        found = run(weights, self.ball.centre, self.ball.radius, tf.constant(60))
        self.dual, self.crown, self.alpha = (
            [tuple(end.numpy().reshape(COUNT, -1) for end in ends) for ends in bounds]
            for bounds in found
        )
        nodes = [self.structure.nodes[k].inputs[0] for k in self.structure.relus]
        self.nodes = dict(enumerate(nodes))
        self.refined = [k for k, i in self.nodes.items() if i in behind_relus(self.structure)]

    def support(self, k, row):
        """The greatest value of `row . x'` over a ball."""
        centre = self.ball.centre.numpy()[k].ravel()
        if self.norm == "linf":
            return row @ centre + np.abs(row) @ self.ball.radius.numpy()[k].ravel()
        return row @ centre + self.eps * np.linalg.norm(row, {"l2": 2, "l1": np.inf}[self.norm])


made = functools.cache(Case)


@pytest.fixture(params=CASES, ids="-".join)
def case(request):
    return made(*request.param)


def crown_upper(case, k, node, row):
    """CROWN's upper bound of `row . node` over the ball of image k, from matrices."""
    pending, constant = {node: row}, 0.0
    relus = {at: number for number, at in enumerate(case.structure.relus)}
    for at in range(node, 0, -1):
        if at not in pending:
            continue
        row, (kind, sources, matrix, bias) = pending.pop(at), case.net.nodes[at]
        if kind == "affine":
            constant, row = constant + row @ bias, row @ matrix
        elif kind == "relu":
            low, high = (end[k] for end in case.crown[relus[at]])
            crossing = (low < 0) & (high > 0)
            gap = np.where(crossing, high - low, 1.0)
            upper = np.where(crossing, high / gap, high > 0)
            lower = np.where(crossing, high > -low, high > 0)
            constant += np.maximum(row, 0) @ np.where(crossing, -high * low / gap, 0.0)
            row = np.where(row > 0, row * upper, row * lower)
        for source in sources:
            pending[source] = pending.get(source, 0.0) + row
    return constant + case.support(k, pending[0])


def test_unstable_neurons_have_crowns_bounds_where_these_are_tighter(case):
    """Of either end, from matrices; and nowhere are refined bounds the looser ones."""
    gained = 0
    for number in case.refined:
        (low, high), (before_low, before_high) = case.crown[number], case.dual[number]
        assert np.all(low >= before_low - 1e-12)
        assert np.all(high <= before_high + 1e-12)
        for k, j in np.argwhere((low < 0) & (high > 0)):
            unit = np.eye(low.shape[1])[j]
            top = crown_upper(case, k, case.nodes[number], unit)
            bottom = -crown_upper(case, k, case.nodes[number], -unit)
            for ours, theirs, dual in (
                (high[k, j], top, before_high[k, j]),
                (-low[k, j], -bottom, -before_low[k, j]),
            ):
                # Perhaps tighter than both, by intervals of what was refined before.
                assert ours <= min(theirs, dual) + 1e-9
                gained += np.isclose(ours, theirs, atol=1e-9) and theirs < dual - 1e-6
    assert gained


@pytest.mark.parametrize("names", PROGRAMMES, ids="-".join)
def test_optimised_bounds_lie_between_crowns_and_the_triangle(names):
    """The programme of each end, over the triangles between the same bounds of earlier layers."""
    case, left, gaps = made(*names), [], []
    for number in case.refined:
        node = case.nodes[number]
        part = oracles.Net(case.net.size)
        part.nodes = case.net.nodes[: node + 1]
        earlier = [case.alpha[i] for i in range(number)]
        for k in range(COUNT):
            low, high = (end[k] for end in case.alpha[number])
            ends = [[bounds[side][k] for bounds in earlier] for side in (0, 1)]
            around = (case.x[k].ravel(), case.eps, case.norm, case.box)
            programme = Programme(oracles.Enclosure(part, *around, *ends), triangle=True)
            before = case.crown[number][1][k] - case.crown[number][0][k]
            for j in np.flatnonzero((low < 0) & (high > 0)):
                unit = np.eye(len(low))[j]
                top, bottom = programme.maximum(unit), -programme.maximum(-unit)
                assert low[j] <= bottom + 1e-6
                assert high[j] >= top - 1e-6
                left.append(high[j] - top + bottom - low[j])
                gaps.append(before[j] - (top - bottom))
    # Nearly all that CROWN's slopes leave is won.
    assert np.sum(left) <= 0.02 * np.sum(gaps)
    assert np.sum(gaps) > 1e-2


def test_optimised_bounds_are_never_the_looser_ones(case):
    gained = 0.0
    for number in case.refined:
        for ours, theirs, sign in zip(case.alpha[number], case.crown[number], (-1, 1), strict=True):
            assert np.all(sign * ours <= sign * theirs + 1e-12)
            gained = max(gained, np.max(sign * (theirs - ours)))
    assert gained > 1e-4


@pytest.mark.parametrize(("sign", "end"), [(-1.0, 1.0), (1.0, 0.0)])
def test_slopes_go_to_an_end_and_not_beyond(sign, end):
    """A lower line of a slope outside [0, 1] is above the ReLU somewhere: nothing would follow."""
    relu = free((tf.constant([[-1.0, -2.0]]), tf.constant([[2.0, 1.0]])), tf.zeros((1, 2)))
    rows = WholeRows(-tf.ones((1, 3, 2)), (2,))
    seen = []

    def reach(relus, visit=None):
        if visit is not None:
            return relus[1].past(rows, Every())[1]
        seen.append(relus[1].slope.numpy())
        return sign * tf.reduce_sum(relus[1].slope, -1)

    found = lowest(reach, {1: relu}, Descent(30, rate=0.5))
    np.testing.assert_allclose(found, np.full((1, 3), 2 * sign * end), atol=1e-6)
    np.testing.assert_allclose(seen[0], np.broadcast_to([1.0, 0.0], (1, 3, 2)))  # CROWN's
    assert (np.array(seen) >= 0).all()
    assert (np.array(seen) <= 1).all()


def test_layers_without_relus_behind_them_are_left_alone(case):
    """No slopes change them; the others are refined."""
    first = [number for number in case.nodes if number not in case.refined]
    assert first
    assert case.refined
    for number in first:
        for refined_end, end in zip(case.alpha[number], case.dual[number], strict=True):
            assert_close(refined_end, end, 1e-12)


@pytest.mark.parametrize("descent", [None, Descent(2)], ids=["crown", "alpha"])
def test_slices_and_calls_leave_bounds_as_they_are(descent, monkeypatch):
    """Within a small budget slice by slice; in deep networks by calls."""
    graph = build(ladder())
    network = graph.network(tf.float64)
    x = tf.constant(nets.images(ladder(), 3, seed=3), tf.float64)
    region = ball(x, tf.constant(0.1, x.dtype))
    dual = enclose(network, region).bounds

    def found(budget):
        return refined(network, region, dual, BoundOptions("needed", budget), descent)

    expected = found(2.0**28)
    assert any(np.any(np.abs(expected[k][0] - dual[k][0]) > 1e-6) for k in dual)
    sliced = found(2.0**14)
    monkeypatch.setattr(runs, "SHALLOW", 0)
    for other in (sliced, found(2.0**28)):
        for k in dual:
            for ours, theirs in zip(other[k], expected[k], strict=True):
                assert_close(ours, theirs, 1e-10)


@pytest.mark.parametrize("descent", [None, Descent(1)], ids=["crown", "alpha"])
@pytest.mark.parametrize("neurons", [1, 2, 3, 100])
def test_slices_of_rows_take_no_more_than_the_budget(descent, neurons, monkeypatch):
    """Room for so many neurons, both ends of each: as many as fit, and at least one."""
    network = build(nets.dense()).network(tf.float64)
    region = ball(tf.fill((2, 5), tf.constant(0.5, tf.float64)), tf.constant(0.3, tf.float64))
    dual = enclose(network, region).bounds
    seen = []

    def counted(function, count, arguments):
        seen.append(int(count))
        return tf.concat([function(tf.constant(i), arguments) for i in range(int(count))], 0)

    for module in (refine, layer_rows):
        monkeypatch.setattr(module, "map_recomputed", counted)
    relu = network.structure.relus[-1]
    paid = cost.row_cost(network.structure, network.structure.nodes[relu].inputs[0])
    numbers = cost.COPIES * paid.widest if descent is None else HELD * paid.numbers

    def slices(count):
        """Of what is asked for, and of one that always is."""
        assert count > 3
        return [] if neurons > count else [-(-(1 + count) // neurons)]

    bytes_each = 8 * numbers * 1.01
    refined(network, region, dual, BoundOptions("needed", 2 * neurons * bytes_each), descent)
    assert seen == slices(int(tf.reduce_sum(tf.cast(unstable(*dual[relu]), tf.int32))))
    if descent is None:
        asked, rows_of = [], layer_rows.LayerRows.rows_of

        def kept(self, below, needed, *others):
            asked.append(len(needed))
            return rows_of(self, below, needed, *others)

        monkeypatch.setattr(layer_rows.LayerRows, "rows_of", kept)
        seen.clear()
        enclose(network, region, BoundOptions("needed", neurons * bytes_each))
        assert len(asked) == 1
        assert seen == slices(asked[0])


def test_the_descent_is_adams():
    """On a sum of squares about points within and beyond [0, 1], against NumPy."""
    relu = free((tf.constant([[-1.0, -2.0]]), tf.constant([[2.0, 1.0]])), tf.zeros((1, 2)))
    rows = WholeRows(-tf.ones((1, 3, 2)), (2,))
    goal = np.array([[[0.3, 0.4], [2.0, 0.9], [0.7, -1.0]]], np.float32)
    seen = []

    def reach(relus, visit=None):
        if visit is not None:
            return relus[1].past(rows, Every())[1]
        seen.append(relus[1].slope.numpy())
        return tf.reduce_sum(tf.square(relus[1].slope - goal), -1)

    steps, rate = 12, 0.25
    found = lowest(reach, {1: relu}, Descent(steps, rate))
    slope = np.broadcast_to([1.0, 0.0], goal.shape)
    mean = square = np.zeros(goal.shape)
    values = []
    for k in range(steps + 1):
        np.testing.assert_allclose(seen[k], slope, atol=1e-5)
        values.append(np.square(slope - goal).sum(-1))
        gradient = 2 * (slope - goal)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.99 * square + 0.01 * gradient**2
        first, second = mean / (1 - 0.9 ** (k + 1)), square / (1 - 0.99 ** (k + 1))
        moved = rate * 0.1 ** (k / steps) * first / (np.sqrt(second) + 1e-12)
        slope = np.clip(slope - moved, 0.0, 1.0)
    assert len(seen) == steps + 1
    np.testing.assert_allclose(found, np.min(values, 0), atol=1e-5)


def test_gradients_of_the_slopes_are_differences(monkeypatch):
    """Of every row by itself, in windows and in whole layers."""
    graph = build(nets.two_conv())
    x = tf.constant(nets.images(nets.two_conv(), COUNT, seed=5), tf.float64)
    region, network = ball(x, tf.constant(0.1, x.dtype)), graph.network(tf.float64)
    seen = []

    def kept(reach, relus, descent):
        seen.append((reach, relus))
        return original(reach, relus, descent)

    original = refine.lowest
    monkeypatch.setattr(refine, "lowest", kept)
    refined(network, region, enclose(network, region).bounds, BoundOptions("needed"), Descent(0))
    rng = np.random.default_rng(7)
    assert len(seen) == 2
    for reach, relus in seen:
        recorders = {at: Recorder(relu) for at, relu in relus.items()}
        reach(recorders, runs.unchanged)
        laid = {at: each.laid for at, each in recorders.items()}
        drawn = {}
        for at, each in laid.items():
            inside = rng.uniform(0.1, 0.9, each.slope.shape)
            drawn[at] = tf.where(each.relu.crossing > 0, inside, each.slope)

        def bound(slopes, reach=reach, laid=laid):
            return reach({at: laid[at]._replace(slope=slopes[at]) for at in laid}, None)

        with tf.GradientTape() as tape:
            tape.watch(drawn)
            total = tf.reduce_sum(bound(drawn))
        for at, slant in tape.gradient(total, drawn).items():
            away = rng.normal(size=slant.shape) * laid[at].relu.crossing
            moved = [bound(drawn | {at: drawn[at] + h * away}) for h in (1e-6, -1e-6)]
            numeric = (moved[0] - moved[1]) / 2e-6
            rows = tf.reduce_sum(tf.reshape(slant * away, (len(numeric), -1)), 1)
            assert np.max(np.abs(rows)) > 1e-3
            assert_close(rows, numeric, 1e-6)
