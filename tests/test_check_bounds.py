"""What the checker derives from multipliers: below every point, and not far below fractions."""

import itertools

import numpy as np
import pytest
import scipy.optimize

from eval.checker import sets
from eval.checker.backward import Rows, lower_bounds
from eval.checker.knowledge import Knowledge, Subject
from eval.checker.network import Network
from eval.checker.rounding import EXACT, Rounding, fractions
from eval.checker.sets import Region
from eval.checker.slopes import CROWN, Given, Slopes
from eval.checker.steps import Step, follow, margins, weighed_margins
from tests import proof_cases
from tests.proof_cases import Case, evaluate, whole

KINDS = list(itertools.product(proof_cases.NETWORKS, ["linf", "l2", "l1"]))


def points(case, rng, count):
    """Points of a set of a case, many of them at its border."""
    x, norm, eps = case.x.astype(np.float64), case.text["norm"], case.text["eps"]
    steps = rng.normal(size=(count, *x.shape))
    if norm == "linf":
        return np.clip(x + eps * np.sign(steps) * rng.choice([1, 0.3], steps.shape), 0, 1)
    size = np.linalg.norm(steps.reshape(count, -1), 2 if norm == "l2" else 1, axis=1)
    size /= eps * rng.choice([1, 0.5], count)
    return np.clip(x + steps / size.reshape(-1, *(1,) * x.ndim), 0, 1)


def values_at(nodes, x):
    """The values of all nodes at points."""
    values = [x]
    for node in nodes[1:]:
        inputs = [values[i] for i in node.inputs]
        relu = node.op == "relu"
        values.append(np.maximum(inputs[0], 0.0) if relu else node.op.forward(*inputs))
    return values


def multipliers(subject, active, rng, rows):
    """Random slopes, and random phases of a point where units are `active`."""
    units = subject.starts[-1]
    alpha = rng.choice([0.0, 0.25, 1.0, rng.random()], (rows, units))
    fixed = [np.flatnonzero(rng.random(units) < 0.3) for _ in range(rows)]
    row = np.repeat(np.arange(rows), [len(f) for f in fixed])
    fixed = np.concatenate(fixed)
    sign = np.where(active[fixed], 1, -1)
    beta = rng.exponential(0.5, len(row)) * rng.choice([0, 1], len(row))
    return Given(np.arange(units), alpha, row, fixed, sign, beta)


@pytest.mark.parametrize(("name", "norm"), KINDS)
def test_any_multipliers_bound_what_points_reach(name, norm):
    """Over all points of the set that keep the phases; and fractions agree, from above."""
    rng = np.random.default_rng(3)
    case = Case(name, 4, 0.3, norm=norm)
    subject, known = case.subject, case.known()
    x = points(case, rng, 2000)
    values = values_at(case.nodes, x)
    units = np.concatenate(
        [values[subject.below(k)].reshape(len(x), -1) for k in range(len(subject.relus))], 1
    )
    given = multipliers(subject, units[0] >= 0, rng, 12).take(0, 12)
    weight = rng.exponential(size=(12, 2))
    found = weighed_margins(known, case.asked, weight, Slopes(known, CROWN, given))[0]
    real = -(case.asked.rows @ values[-1].T)
    checked = 0
    for row in range(12):
        own = given.row == row
        kept = ((given.sign[own] * units[:, given.fixed[own]]) >= 0).all(1)
        assert kept[0]
        checked += kept.sum()
        assert found[row] <= (weight[row] @ real[:, kept]).min() + 1e-12
    assert checked > 100
    exact = _in_fractions(case, known)
    more = weighed_margins(exact, case.asked, weight, Slopes(exact, CROWN, given))[0]
    assert all(value >= bound for value, bound in zip(more, found, strict=True))
    np.testing.assert_allclose(more.astype(np.float64), found, rtol=0, atol=1e-8)


def _in_fractions(case, known):
    subject = Subject(Network(case.operations, case.weights, exact=True).nodes, EXACT)
    region = case.region
    parts = [None if a is None else fractions(np.asarray(a, np.float64)) for a in region[3:]]
    ends = fractions(region.low), fractions(region.high)
    exact = Knowledge(subject, Region(*ends, region.norm, *parts), Knowledge(case.subject, region))
    follow(exact, [Step(k, rule, None) for k, rule in case.bounds])
    for mine, theirs in zip(exact.bounds, known.bounds, strict=True):
        assert (mine[0] >= theirs[0]).all()
        assert (mine[1] <= theirs[1]).all()
    return exact


@pytest.mark.parametrize(("name", "rule"), itertools.product(proof_cases.NETWORKS, ["wk", "crown"]))
def test_bounds_of_units_and_margins_hold_at_points(name, rule):
    case = Case(name, 5, 0.2, rule=rule)
    known, x = case.known(), points(case, np.random.default_rng(2), 2000)
    values = values_at(case.nodes, x)
    for k, (lower, upper) in enumerate(known.bounds):
        here = values[case.subject.below(k)]
        assert (here >= lower - 1e-12).all()
        assert (here <= upper + 1e-12).all()
    for asked in ("interval", "wk", "crown"):
        least = margins(known, case.asked, asked)[0]
        assert (least <= -(values[-1] @ case.asked.rows.T) + 1e-12).all()


def test_a_network_that_is_linear_on_its_set_is_bounded_to_rounding():
    case = Case("dense", 3, 1e-4)
    known = case.known()
    corners = np.array(
        list(itertools.product(*zip(case.region.low[0], case.region.high[0], strict=True)))
    )
    assert all(((low > 0) | (high < 0)).all() for low, high in known.bounds)
    real = -(case.asked.rows @ evaluate(case.nodes, corners).T)
    found = margins(known, case.asked, CROWN)[0]
    assert (found <= real.min(1)).all()
    np.testing.assert_allclose(found, real.min(1), rtol=0, atol=1e-10)


def test_the_least_over_a_cut_ball_is_that_of_a_linear_programme():
    """`l1` cut to a box exactly; `l2` no worse than the box and the ball."""
    rng = np.random.default_rng(0)
    x, eps = rng.uniform(0, 1, (1, 6)), np.array([0.7])
    walls = np.zeros((1, 6)), np.ones((1, 6))
    rounding = Rounding(1e-14, False)
    rows = rng.normal(size=(1, 20, 6))
    found = sets.lowest(sets.ball("l1", x, eps, walls, rounding), rows, rounding)[0]
    for row, bound in zip(rows[0], found, strict=True):
        # x' = x + p - q with p, q >= 0.
        solved = scipy.optimize.linprog(
            np.concatenate([row, -row]),
            A_ub=np.ones((1, 12)),
            b_ub=eps,
            bounds=[(0, 1 - v) for v in x[0]] + [(0, v) for v in x[0]],
        )
        least = solved.fun + row @ x[0]
        assert bound <= least + 1e-9
        assert bound == pytest.approx(least, abs=1e-9)
    ball = sets.lowest(sets.ball("l2", x, eps, None, rounding), rows, rounding)[0]
    np.testing.assert_allclose(
        ball, rows[0] @ x[0] - 0.7 * np.linalg.norm(rows[0], axis=1), atol=1e-9
    )
    cut = sets.lowest(sets.ball("l2", x, eps, walls, rounding), rows, rounding)[0]
    assert (cut >= ball - 1e-12).all()


def test_roots_are_from_above_and_close():
    for value in (2, 10**40, 7 * 10**-30, 4):
        value = sets.Fraction(value)
        found = sets.root(value)
        assert found * found >= value
        assert found * found <= value * (1 + sets.Fraction(1, 2**98))
    assert sets.root(sets.Fraction(0)) == 0


def _cancelling(seed):
    """A network whose logits cancel numbers of 2^30 times their size: float64 rounds the most."""
    rng = np.random.default_rng(seed)
    operations, weights = proof_cases.dense(seed)
    weights = [w.copy() for w in weights]
    weights[0][:, 1] = weights[0][:, 0]
    weights[1][:2] = 2.0**20 * rng.integers(1, 9)
    large = np.float32(2.0**30 * rng.normal())
    weights[2][0], weights[2][1] = large, -large
    return operations, weights


def test_cancellation_in_float64_is_counted():
    steps = [Step(k, rule, None) for k, rule in proof_cases.steps(2)]
    asked, missed = proof_cases.pair_sets(0)[0], []
    for seed in range(6):
        operations, weights = _cancelling(seed)
        x = np.random.default_rng(seed).uniform(size=4)
        subject = Subject(Network(operations, weights).nodes)
        exact = Subject(Network(operations, weights, exact=True).nodes, EXACT)
        region = whole(x, x)
        known = Knowledge(subject, region)
        both = Knowledge(exact, Region(*map(fractions, region[:2])), Knowledge(subject, region))
        follow(known, steps)
        follow(both, steps)
        found, more = (margins(k, asked, CROWN)[0] for k in (known, both))
        assert (found > -np.inf).all()
        assert all(value >= bound for value, bound in zip(more, found, strict=True))
        # At a point the fractions are the network itself, which float64 misses by much here.
        plain = evaluate(subject.nodes, x[None])[0]
        missed.append(np.abs(-(asked.rows @ plain) - more.astype(np.float64)).max())
    assert np.count_nonzero(np.array(missed) > 1e-9) >= 3


def test_float32_is_bounded_in_any_order():
    """`relu(x + 1e8) - 1e8` in float32 is a multiple of 8: bounds of both kinds are right."""
    operations = [
        {"op": "input", "shape": [1]},
        {"op": "dense", "inputs": [0], "weights": [0, 1]},
        {"op": "relu", "inputs": [1], "weights": []},
        {"op": "dense", "inputs": [2], "weights": [2, 3]},
    ]
    arrays = [[[4.1]], [1e8], [[-1.0, 0.0]], [1e8, -6.0]]
    nodes = Network(operations, [np.float32(a) for a in arrays]).nodes
    asked = proof_cases.Asked(np.array([[1.0, -1.0]]), np.zeros(1))  # of f_1 - f_0
    least = {}
    for float32 in (False, True):
        known = Knowledge(Subject(nodes, float32=float32), whole(np.ones(1), np.ones(1)))
        follow(known, [Step(0, "interval", None)])
        least[float32] = margins(known, asked, CROWN)[0, 0]
    assert least[False] == pytest.approx(np.float64(np.float32(4.1)) - 6, abs=1e-3)
    # In float32 the first logit is -8 or 0, according to how it is rounded.
    assert least[True] < -6


def test_rows_start_at_several_nodes_and_end_at_intervals():
    """Margins by intervals of the last ReLUs are the elided interval bound."""
    case = Case("dense", 3, 0.1)
    known = case.known()
    known.forward(len(case.nodes) - 1)
    kernel = case.nodes[-1].op.kernel @ -case.asked.rows.T
    low, high = (np.maximum(end[0], 0) for end in known.bounds[-1])
    offset = -case.asked.rows @ case.nodes[-1].op.bias
    plain = np.maximum(kernel.T, 0) @ low + np.minimum(kernel.T, 0) @ high + offset
    found = margins(known, case.asked, "interval")[0]
    np.testing.assert_allclose(found, plain, atol=1e-10)
    assert (found <= plain).all()
    below, last = case.subject.below(1), len(case.nodes) - 1
    rows = {last: -case.asked.rows[None], below: np.ones((1, 2, 5))}
    both = lower_bounds(
        known, {k: Rows(v.reshape(1, len(v[0]), -1)) for k, v in rows.items()}, Slopes(known, CROWN)
    )[0]
    values = values_at(case.nodes, points(case, np.random.default_rng(1), 500))
    real = -(values[last] @ case.asked.rows.T) + values[below].sum(1, keepdims=True)
    assert (both <= real + 1e-12).all()


def test_rows_of_another_size_are_bounded_by_as_much():
    """By powers of two nothing is rounded otherwise: what is subtracted has the rows' own size."""
    case = Case("dense", 3, 0.1)
    known = case.known()
    known.forward(len(case.nodes) - 1)
    last, rows = len(case.nodes) - 1, -case.asked.rows[None]
    found, small = (
        lower_bounds(known, {last: Rows(size * rows)}, Slopes(known, CROWN)) for size in (1, 2**-60)
    )
    np.testing.assert_array_equal(small, 2**-60 * found)


def test_what_rounding_may_take_away_is_taken_away_whole():
    """Of whole numbers, whose sum is exact: no part of it is forgotten, and little is added."""
    nodes = Network([{"op": "input", "shape": [4]}], []).nodes
    known = Knowledge(Subject(nodes), whole(np.zeros(4), np.zeros(4)))
    off = np.array([[3.0, 5.0, 7.0, 9.0]])
    known.passed[0] = known.passed[0]._replace(pushed=off)
    row = np.array([[[1.0, -2.0, 4.0, -8.0]]])
    (bound,) = lower_bounds(known, {0: Rows(row)}, Slopes(known, CROWN))[0]
    lost = float(np.abs(row[0, 0]) @ off[0])
    assert -(1 + 1e-11) * lost < bound < -lost


def test_convolutions_of_few_numbers_are_written_out_as_matrices():
    """Half a gigabyte is: rows of units known to be dead are left out of them."""

    def of_side(side, filters):
        weights = [np.ones((3, 3, 2, filters), np.float32), np.zeros(filters, np.float32)]
        conv = {"op": "conv", "inputs": [0], "weights": [0, 1], "strides": [1, 1]}
        conv["padding"] = [[1, 1], [1, 1]]
        return Subject(Network([{"op": "input", "shape": [side, side, 2]}, conv], weights).nodes)

    small, large = of_side(3, 2), of_side(64, 3)
    assert small.matrix(1).shape == (18, 18)
    assert np.count_nonzero(small.matrix(1)) == 4 * 49
    assert 8192 * 12288 > 2**26
    assert large.matrix(1) is None


def test_units_that_are_dead_take_no_part():
    """Of a matrix the columns are left out that nothing can come through."""
    case = Case("dense", 3, 1e-4)
    known = case.known()
    margins(known, case.asked, CROWN)
    seen = 0
    for (at, *_), (columns, part) in known.restricted.items():
        (below,) = case.nodes[at].inputs
        if case.nodes[below].op == "relu":
            alive = np.flatnonzero(known.passed[below].upper[0] > 0)
            np.testing.assert_array_equal(columns, alive)
            assert part.shape[1] == len(alive)
            seen += len(alive) < case.nodes[below].shape[0]
    assert seen > 0
