"""Small searches for the bounds of units: below every sample, above linear programmes."""

import dataclasses
import itertools
import time

import keras
import numpy as np
import pytest
from scipy.optimize import linprog

import robustra_tf as rt
from robustra_tf.exact import Status, refining, searches
from robustra_tf.exact.inner import improved
from robustra_tf.exact.refining import Refinement, Rounds, looseness, refined
from tests import nets
from tests.test_exact_multipliers import Case


@pytest.mark.parametrize(("name", "norm"), [("two_conv", "linf"), ("residual", "l1")])
def test_refined_bounds_hold_and_are_better(name, norm):
    gained = 0.0
    for seed in range(2):
        case = Case(name, seed, norm)
        before = improved(case.r, case.x, case.radius, np.inf)
        after = refined(before, case.x, case.radius, Refinement(12, np.inf, 10**6))
        assert (after.lower >= before.lower).all()
        assert (after.upper <= before.upper).all()
        _, _, z = case.points(3000)
        assert (after.lower <= z + 1e-9).all()
        assert (z <= after.upper + 1e-9).all()
        gained += looseness(before) - looseness(after)
    assert gained > 1e-3


def exact(case, unit):
    """The least of a unit of the second group: a linear programme for all phases of the first."""
    r, first = case.r, case.r.groups[0]
    w, c = r.weights[first][:, : r.pixels].toarray(), r.offset[first]
    row = r.weights[[unit]].toarray()[0]
    open_ = np.flatnonzero(r.relu[first] & (r.lower[first] < 0) & (r.upper[first] > 0))
    assert len(open_) <= 6
    least = np.inf
    for signs in itertools.product((-1.0, 1.0), repeat=len(open_)):
        active = np.where(r.relu[first], r.lower[first] >= 0, True).astype(float)
        active[open_] = np.array(signs) > 0
        through = row[r.columns(first)] * active
        side = np.array(signs)[:, None]
        solved = linprog(
            row[: r.pixels] + through @ w,
            A_ub=-side * w[open_],
            b_ub=np.array(signs) * c[open_],
            bounds=list(zip(r.low, r.high, strict=True)),
        )
        if solved.status == 0:
            least = min(least, solved.fun + through @ c + r.offset[unit])
    return least


def test_with_enough_domains_a_bound_is_the_unit_s_own(monkeypatch):
    monkeypatch.setattr(refining, "_PATIENCE", 10**6)
    case = Case("dense", 1)
    r = case.r
    after = refined(r, case.x, case.radius, Refinement(300, np.inf, 10**6))
    second = np.arange(r.groups[1].start, r.groups[1].stop)
    crossing = second[(r.lower[second] < 0) & (r.upper[second] > 0) & (after.lower[second] < 0)]
    gained = total = 0.0
    for unit in crossing[:3]:
        least = exact(case, unit)
        assert after.lower[unit] <= least + 1e-9
        gained += after.lower[unit] - r.lower[unit]
        total += least - r.lower[unit]
    assert total > 1e-3
    assert gained > 0.95 * total


def test_no_time_leaves_bounds_as_they_are():
    case = Case("two_conv", 0)
    after = refined(case.r, case.x, case.radius, Refinement(12, time.monotonic() - 1.0, 10**6))
    np.testing.assert_array_equal(after.lower, case.r.lower)
    np.testing.assert_array_equal(after.upper, case.r.upper)


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_a_search_in_rounds_decides_as_one_of_linear_programmes(monkeypatch, norm):
    monkeypatch.setattr(refining, "_ROUNDS", ((1, 6), (2, 6)))
    monkeypatch.setattr(refining, "_PAYS", 0.0)
    rounds, finer = [], searches.finer

    def counted(*given):
        rounds.append(given)
        return finer(*given)

    monkeypatch.setattr(searches, "finer", counted)
    found = []
    for seed in range(2):
        model = nets.randomise(nets.ALL["two_conv"](), seed)
        x = nets.images(model, 1, seed=seed)[0]
        label = int(model(x[None]).numpy().argmax())
        for eps in (0.1, 0.2) if norm == "linf" else (0.6, 1.0):
            ours, other = (
                rt.Verifier(model, eps, norm, solver=solver).verify(x, label).status
                for solver in ("batched", "branch")
            )
            assert ours is other
            found.append(ours)
    assert len(rounds) > 1
    print(found, len(rounds))


def test_what_is_no_number_leaves_bounds_as_they_are(monkeypatch):
    case = Case("two_conv", 0)
    before = improved(case.r, case.x, case.radius, np.inf)
    nothing = lambda self, domains: np.full(len(domains), np.nan)  # noqa: E731, of no domain
    monkeypatch.setattr(refining.Bounding, "certified", nothing)
    after = refined(before, case.x, case.radius, Refinement(4, np.inf, 10**6))
    np.testing.assert_array_equal(after.lower, before.lower)
    np.testing.assert_array_equal(after.upper, before.upper)


def test_looseness_is_what_triangles_are_off_at_most():
    case = Case("two_conv", 0)
    r, off = case.r, 0.0
    for unit in range(r.groups[0].stop, r.units):
        low, high = r.lower[unit], r.upper[unit]
        if r.relu[unit] and low < 0 < high:
            z = np.linspace(low, high, 1001)
            off += (high * (z - low) / (high - low) - np.maximum(z, 0.0)).max()
    assert looseness(r) == pytest.approx(off, rel=1e-3)
    assert off > 0


def narrowed(r, share):
    """Both ends of all units nearer to 0, so that every triangle is smaller by a share."""
    return dataclasses.replace(r, lower=(1 - share) * r.lower, upper=(1 - share) * r.upper)


def test_rounds_grow_while_they_pay_and_then_one_takes_all(monkeypatch):
    monkeypatch.setattr(refining, "_ROUNDS", ((10, 2), (20, 4), (30, 8)))
    r = Case("two_conv", 0).r
    rounds, deadline = Rounds(r.units), time.monotonic() + 100.0
    seen = []
    for share in (0.5, 0.06, 0.5):
        how = rounds.refinement(deadline, 10**6)
        assert how.deadline == pytest.approx(deadline - 75.0, abs=5.0)
        seen.append((rounds.nodes, how.domains))
        rounds.go_on(r, narrowed(r, share))
    assert seen == [(10, 2), (20, 4), (30, 8)]
    assert rounds.nodes == np.inf
    rounds = Rounds(r.units)
    rounds.go_on(r, narrowed(r, 0.04))
    assert rounds.nodes == np.inf
    assert Rounds(1601).nodes == np.inf
    assert Rounds(1600).nodes == 10


def test_where_refined_bounds_leave_no_relu_the_search_goes_on(monkeypatch, eagerly):
    """`|x + y| + |x - y|` is at most 2, by triangles 4: the second layer is found to be dead."""
    monkeypatch.setattr(refining, "_ROUNDS", ((1, 200),))
    left, finer = [], searches.finer

    def seen(*given):
        ground = finer(*given)
        left.append(ground.restriction.units)
        return ground

    monkeypatch.setattr(searches, "finer", seen)
    dense = keras.layers.Dense
    model = keras.Sequential([keras.Input((2,)), dense(4, "relu"), dense(1, "relu"), dense(2)])
    first = np.array([[1, -1, 1, -1], [1, -1, -1, 1]])
    # What is left of the margin is below any tolerance.
    last = np.array([[-1, 0]]), np.array([1 + 1e-6, 1])
    model.set_weights([first, np.zeros(4), np.ones((4, 1)), np.array([-2.2]), *last])
    verdict = rt.Verifier(model, 1.0, solver="batched").verify(np.zeros(2, np.float32), 0)
    assert left == [0]
    assert verdict.status is Status.UNKNOWN


def test_small_searches_end_at_so_many_domains(monkeypatch):
    """What they have found by then counts."""
    case = Case("two_conv", 0)
    before = improved(case.r, case.x, case.radius, np.inf)
    held, least = [], refining._least

    def counted(bounding, count, how):
        taken = []
        seen = bounding.seen
        monkeypatch.setattr(bounding, "seen", lambda d: taken.append(len(d)) or seen(d))
        found = least(bounding, count, how)
        held.append(sum(taken) - count)
        return found

    monkeypatch.setattr(refining, "_least", counted)
    found = {}
    for most in (1, 10**6):
        held.clear()
        found[most] = looseness(refined(before, case.x, case.radius, Refinement(12, np.inf, most)))
        found[most, "halves"] = sum(held)
    assert found[1, "halves"] == 0 < found[10**6, "halves"]
    assert found[10**6] < found[1] <= looseness(before)
