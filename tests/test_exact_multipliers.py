"""Bounds from multipliers: derivatives, samples, linear programmes with the same phases."""

import os

import numpy as np
import pytest
import tensorflow as tf

from robustra_tf.exact.ascent import Pace, ascent, climbed, engine, explored
from robustra_tf.exact.dense import Columns, Lines, _blocks, dense
from robustra_tf.exact.encoding import encode
from robustra_tf.exact.highs import LinearProgrammes
from robustra_tf.exact.inner import as_type, improved
from robustra_tf.exact.matrices import affine_maps
from robustra_tf.exact.multipliers import Kind, Multipliers, Problem, backward, certified
from robustra_tf.exact.substitution import Form, restrict
from robustra_tf.exact.tighten import enclosed, tightened
from robustra_tf.graph import build
from tests import nets

RADIUS = {"linf": None, "l1": 0.9}
#: Networks that are compared with linear programmes.
PROGRAMMES = int(os.environ.get("ROBUSTRA_PROGRAMMES", "12"))


class Case:
    """A random network restricted to a ball, with margins and phases of some unstable ReLUs."""

    def __init__(self, name, seed, norm="linf", margins=1, fixed=3, count=4):
        self.norm, self.radius, self.kind = norm, RADIUS[norm], Kind(norm)
        rng = np.random.default_rng(seed)
        model = nets.randomise(nets.ALL[name](), seed)
        graph = build(model)
        x = nets.images(model, 1, seed=seed)[0].astype(np.float64)
        eps = 0.3 if norm == "linf" else self.radius
        classes = graph.structure.output_shape[0]
        rows = rng.normal(size=(margins, classes))
        found = enclosed(graph.structure, graph.weights(tf.float64), x, rows, eps, norm, (0.0, 1.0))
        self.x = x.ravel()
        low, high = np.maximum(self.x - eps, 0), np.minimum(self.x + eps, 1)
        maps = affine_maps(graph)
        self.r = restrict(graph.structure, maps, low, high, found.bounds, form=Form(sparse=False))
        given = [self.r.margin(row) for row in rows]
        self.rows = np.stack([row for row, _ in given])
        self.constants = np.array([constant for _, constant in given])
        self.columns = Columns.of(self.r)
        self.network = dense(self.columns, self.x, self.radius, tf.float64)
        unstable = np.flatnonzero(self.r.relu & (self.r.lower < 0) & (self.r.upper > 0))
        self.phases, self.rng = np.zeros((count, self.r.units)), rng
        # The last one as they come, perhaps of no point; the others as points have them.
        *real, last = self.phases[1:]
        for row, z in zip(real, self.points(len(real))[2], strict=True):
            chosen = rng.permutation(unstable)[:fixed]
            row[chosen] = np.sign(z[chosen])
        chosen = rng.permutation(unstable)[:fixed]
        last[chosen] = rng.choice([-1.0, 1.0], len(chosen))

    @property
    def problem(self):
        rows, constants = self.columns.rows(self.rows, self.constants)
        count = len(self.phases)
        parts = np.repeat(rows[None], count, 0), np.repeat(constants[None], count, 0), self.phases
        lines = Lines.of(self.r.relu, self.r.lower[None], self.r.upper[None])
        return Problem(*(tf.constant(part) for part in parts), lines.tensors(tf.float64))

    def given(self):
        unit = self.rng.uniform(0, 1, self.phases.shape)
        mix = self.rng.uniform(0.2, 1, (len(self.phases), len(self.rows)))
        return Multipliers(tf.constant(unit), tf.constant(mix))

    def points(self, count=400):
        """Random points of the ball [k, n], and what they are on: (u, z)."""
        low, high = self.r.low, self.r.high
        points = self.rng.uniform(low, high, (count, len(low)))
        if self.norm == "l1":
            shift = points - self.x
            size = np.abs(shift).sum(1, keepdims=True)
            points = self.x + shift * np.minimum(1, self.radius / size)
        return points, *self.r.values(points)

    def least(self, row):
        """By HiGHS, over the triangles with the phases fixed: infinite where there is no point."""
        encoding = encode(self.r, self.x, l1_radius=self.radius)
        cost, upper = encoding.cost(self.rows[0]), encoding.relaxed.upper.copy()
        place = {int(unit): k for k, unit in enumerate(encoding.units)}
        for unit in np.flatnonzero(row):
            if unit in place:
                column = encoding.column(place[unit])
                upper[column + (len(place) if row[unit] > 0 else 0)] = 0.0
        session = LinearProgrammes(encoding.relaxed)
        session.aim(cost)
        solved = session.solve(encoding.relaxed.lower, upper, 20.0)
        if solved.status == "Infeasible":
            return np.inf
        return float(cost @ solved.values) + self.constants[0]


CASES = [("dense", 0, "linf", 1), ("residual", 1, "linf", 2), ("two_conv", 2, "l1", 3)]


@pytest.fixture(params=CASES, ids=lambda case: "-".join(map(str, case)))
def case(request):
    name, seed, norm, margins = request.param
    return Case(name, seed, norm, margins)


def test_derivatives_are_those_of_differences(case):
    given, problem = case.given(), case.problem
    bound, slopes = ascent(case.network, problem, given, case.kind)
    assert np.abs(slopes.unit).max() > 0
    direction = [tf.constant(case.rng.normal(size=part.shape)) for part in given]
    h = 1e-7
    ends = [
        backward(
            case.network,
            problem,
            Multipliers(*(g + sign * h * d for g, d in zip(given, direction, strict=True))),
            case.kind,
        ).bound.numpy()
        for sign in (1, -1)
    ]
    expected = (ends[0] - ends[1]) / (2 * h)
    ours = sum(np.sum(s * d, 1) for s, d in zip(slopes, direction, strict=True))
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6 * np.abs(bound).max())


def test_cut_into_blocks_a_network_has_the_same_bounds_and_derivatives(case, monkeypatch):
    monkeypatch.setattr("robustra_tf.exact.dense._SMALL", 0)
    cut = dense(case.columns, case.x, case.radius, tf.float64)
    assert cut.layout[0] > 1
    given = case.given()
    whole, found = (
        ascent(network, case.problem, given, case.kind) for network in (case.network, cut)
    )
    np.testing.assert_allclose(found[0], whole[0], rtol=1e-10, atol=1e-10)
    for ours, theirs in zip(found[1], whole[1], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-8)


def test_any_multipliers_are_below_the_network_on_its_domain(case):
    _, u, z = case.points()
    margins = (u @ case.rows.T + case.constants).max(1)
    seen = 0
    for _ in range(10):
        bound = certified(case.network, case.problem, case.given(), case.kind).numpy()
        for row, value in zip(case.phases, bound, strict=True):
            inside = (row * z >= 0).all(1)
            seen += inside.any()
            assert value <= margins[inside].min(initial=np.inf)
    assert seen >= 30


def test_where_a_relu_is_stable_its_multiplier_is_not_read(case):
    """Nor where a unit is no ReLU: between their lines there is nothing to choose."""
    rng, r = np.random.default_rng(0), case.r
    relu = r.relu & (rng.random(r.units) < 0.7)
    stable = rng.choice([-1, 0, 1], r.units)  # dead, open, active
    lower = np.where(stable > 0, np.abs(r.lower), r.lower)
    upper = np.where(stable < 0, -np.abs(r.upper), r.upper)
    lines = Lines.of(relu, np.minimum(lower, upper)[None], np.maximum(lower, upper)[None])
    problem = case.problem._replace(lines=lines.tensors(tf.float64))
    given = case.given()
    unread = (problem.phases == 0) & (problem.lines.free == 0)
    assert unread.numpy().any(1).all()
    other = given._replace(unit=tf.where(unread, 1 - given.unit, given.unit))
    one, same = (backward(case.network, problem, each, case.kind).bound for each in (given, other))
    np.testing.assert_array_equal(one, same)


def test_a_certified_bound_is_the_bound_less_a_little(case):
    given = case.given()
    bound = backward(case.network, case.problem, given, case.kind).bound.numpy()
    less = bound - certified(case.network, case.problem, given, case.kind).numpy()
    assert (less > 0).all()
    assert (less < 1e-9 * (1 + np.abs(bound))).all()
    nothing = given._replace(unit=given.unit * np.nan)
    assert (certified(case.network, case.problem, nothing, case.kind).numpy() == -np.inf).all()


def test_sizes_are_no_less_than_what_points_add_up(case):
    """Rounding is counted by them: `|z|`, `|u|` and `|W| |u| + |c|` of every unit."""
    points, u, z = case.points()
    assert (np.abs(z) <= case.network.top.numpy()).all()
    counted = np.concatenate([points[:, case.columns.moving], u[:, case.r.pixels :]], 1)
    assert (np.abs(counted) <= case.network.farthest.numpy()).all()
    added = (abs(case.r.weights) @ np.abs(u).T).T + np.abs(case.r.offset)
    still = np.setdiff1d(np.arange(case.r.pixels), case.columns.moving)
    assert not still.size  # those that do not move would stand in the offset
    assert (added <= case.network.reach.numpy() * (1 + 1e-12)).all()


def test_blocks_are_the_matrix_that_they_were_cut_from():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(5, 7))
    matrix[:2, :3] = matrix[4, :3] = matrix[:, 3:5] = 0.0  # rows about a block, and all of one
    ends = [0, 3, 5, 7]
    blocks = _blocks(matrix, ends, tf.float64)
    assert [block.values.shape[0] for block in blocks] == [2, 0, 5]
    left, right = rng.normal(size=(4, 5)), rng.normal(size=(4, 7))
    times = [block.times(tf.constant(left)) for block in blocks]
    np.testing.assert_allclose(np.concatenate(times, 1), left @ matrix, atol=1e-12)
    parts = np.split(right, ends[1:-1], axis=1)
    applied = [b.applied(tf.constant(part), 5) for b, part in zip(blocks, parts, strict=True)]
    np.testing.assert_allclose(np.sum(applied, 0), right @ matrix.T, atol=1e-12)


def test_the_ascent_is_adams(case):
    """Step by step in NumPy from the derivatives, each multiplier kept where it is valid."""
    given, problem, steps, rate = case.given(), case.problem, 7, 0.2
    pace = Pace.of(steps, rate)._replace(rate=tf.constant(rate, tf.float64))
    best, kept = climbed(case.network, problem, given, case.kind, pace)
    most = np.where(np.abs(case.phases) > 0, np.inf, 1.0)
    here, moments, values = [part.numpy() for part in given], [[0.0, 0.0], [0.0, 0.0]], []
    for k in range(steps + 1):
        now = Multipliers(*map(tf.constant, here))
        bound, slopes = ascent(case.network, problem, now, case.kind)
        values.append((bound.numpy(), now))
        size = rate * 0.1 ** (k / steps)
        for part, slope in enumerate(map(np.asarray, slopes)):
            mean, square = moments[part]
            mean, square = 0.9 * mean + 0.1 * slope, 0.99 * square + 0.01 * slope**2
            moments[part] = [mean, square]
            first, second = mean / (1 - 0.9 ** (k + 1)), square / (1 - 0.99 ** (k + 1))
            here[part] = here[part] + size * first / np.sqrt(second + 1e-24)
        here = [np.clip(here[0], 0.0, most), np.maximum(here[1], 0.0) + 1e-12]
    bounds = np.stack([bound for bound, _ in values])
    np.testing.assert_allclose(best, bounds.max(0), rtol=1e-5)
    for row, step in enumerate(bounds.argmax(0)):
        np.testing.assert_allclose(kept.unit[row], values[step][1].unit[row], atol=1e-5)


def test_no_optimised_bound_is_above_the_linear_programme_and_most_reach_it():
    """Of networks with phases fixed; a domain without a point has bounds without limit."""
    close, count = 0, 0
    for seed in range(PROGRAMMES):
        name, norm = (("dense", "linf"), ("residual", "linf"), ("dense", "l1"))[seed % 3]
        case = Case(name, seed, norm)
        functions = engine(case.network.layout, case.kind, 1)
        first = Multipliers(case.given().unit, tf.ones((len(case.phases), 1), tf.float64))
        narrow = [as_type(part, tf.float32) for part in (case.problem, first)]
        single = dense(case.columns, case.x, case.radius, tf.float32)
        best, kept = functions.climbed(single, *narrow, Pace.of(300, 0.2))
        sure = functions.certified(case.network, case.problem, as_type(kept, tf.float64)).numpy()
        least = np.array([case.least(row) for row in case.phases])
        assert (sure <= least + 1e-7 * (1 + np.abs(least))).all()
        np.testing.assert_allclose(best, sure, rtol=1e-3, atol=1e-4)
        real = np.isfinite(least)
        scale = np.abs(least[real]) + np.abs(case.constants).max()
        close += int((least[real] - sure[real] <= 0.01 * scale).sum())
        count += int(real.sum())
    assert count > 3 * PROGRAMMES
    assert close >= 0.97 * count


def test_where_a_bound_is_attained_the_relaxation_has_its_value(case):
    problem, given = case.problem, case.given()
    found = explored(case.network, problem, given, case.kind)
    margin = found.margin.numpy()
    points = case.columns.image(found.point.numpy())
    u = case.r.values(points)[0]
    np.testing.assert_allclose(margin, (u @ case.rows.T + case.constants).max(1), rtol=1e-9)
    outside = np.maximum(case.r.low - points, points - case.r.high)
    assert outside.max() <= 1e-12
    if case.norm == "l1":
        assert np.abs(points - case.x).sum(1).max() <= case.radius * (1 + 1e-9)
    score = found.score.numpy()
    assert (score[case.phases != 0] == -np.inf).all()
    # Without unstable ReLUs on the way nothing is lost: the bound is the margin's own.
    bound = backward(case.network, problem, given, case.kind).bound.numpy()
    gap = np.where(np.isfinite(score), score, 0).sum(1)
    if len(case.rows) == 1:
        whole = case.phases[0] == 0
        assert whole.all()
        np.testing.assert_array_less(bound[0], margin[0] + 1e-9)
        assert gap[0] > 0


@pytest.mark.parametrize(("name", "norm"), [("two_conv", "linf"), ("residual", "l1")])
def test_inner_bounds_lie_between_those_of_linear_programmes_and_the_dual(name, norm):
    case = Case(name, 5, norm)
    ours = improved(case.r, case.x, case.radius, np.inf, 60)
    best, _ = tightened(case.r, case.x, case.radius, np.inf)
    loose = (case.r.upper - case.r.lower).sum()
    assert (ours.lower <= best.lower + 1e-7).all()
    assert (ours.upper >= best.upper - 1e-7).all()
    width, least = (ours.upper - ours.lower).sum(), (best.upper - best.lower).sum()
    assert width - least <= 0.02 * (loose - least)
    _, _, z = case.points()
    assert (ours.lower <= z).all()
    assert (z <= ours.upper).all()
    late = improved(case.r, case.x, case.radius, -np.inf)
    np.testing.assert_array_equal(late.lower, case.r.lower)
