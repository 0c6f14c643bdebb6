"""Targets whose waiting domains become parts, each with bounds of its own."""

import dataclasses
import itertools
import time

import numpy as np
import pytest

import robustra_tf as rt
from robustra_tf.exact import batched, closing, refining
from robustra_tf.exact.ascent import Pace
from robustra_tf.exact.batched import BatchedSearch
from robustra_tf.exact.domains import grouped
from robustra_tf.exact.options import SearchOptions
from robustra_tf.exact.solver import Outcome
from tests.test_exact_batched import hard_case, search, shifted
from tests.test_exact_multipliers import Case


def tree(rng, units, depth):
    """Phases of the leaves of a random tree of splits, some of them gone."""
    leaves = [np.zeros(units, np.int8)]
    for _ in range(depth):
        parts = []
        for leaf in leaves:
            unit = rng.choice(np.flatnonzero(leaf == 0))
            for phase in (1, -1):
                part = leaf.copy()
                part[unit] = phase
                parts.append(part)
        leaves = parts
    kept = rng.random(len(leaves)) < 0.7
    return np.array(leaves)[kept]


def test_groups_hold_every_domain_once_and_share_phases_that_no_other_group_has():
    rng = np.random.default_rng(0)
    for _ in range(20):
        phases = tree(rng, 12, 5)
        groups = grouped(phases, 4)
        assert len(groups) == min(4, len(phases))
        np.testing.assert_array_equal(np.sort(np.concatenate(groups)), np.arange(len(phases)))
        common = []
        for group in groups:
            here = phases[group]
            common.append(np.where((here == here[0]).all(0), here[0], 0))
        for one, other in itertools.combinations(common, 2):
            assert (one * other == -1).any()  # no point is in both
        assert max(map(len, groups)) < len(phases)


def test_equal_phases_and_no_units_are_one_group():
    assert [list(group) for group in grouped(np.ones((3, 2), np.int8), 5)] == [[0, 1, 2]]
    assert [list(group) for group in grouped(np.zeros((2, 0), np.int8), 5)] == [[0, 1]]
    # What is fixed in some of them alone does not part them.
    assert len(grouped(np.array([[1, 0], [0, 1]], np.int8), 5)) == 1


def parted(case, goal):
    """A search with one target that is parted by a unit of the second group, if there is one."""
    found = search(case, {0: goal})
    bounds = found._bounding
    free = np.flatnonzero(bounds.targets.ends.lines.free[0])
    unit = free[len(free) // 2]
    places = []
    for phase in (1, -1):
        phases = np.zeros(case.r.units, np.int8)
        phases[unit] = phase
        places.append(bounds.part(0, phases, np.full(case.r.units, np.nan)))
        found._tally.part(0)
    return found, free, unit, places


@pytest.mark.parametrize("margins", [1, 2])
def test_bounds_of_a_part_hold_for_its_own_points_where_the_target_does_not(margins):
    seen = 0
    for seed in range(3):
        case = Case("two_conv", seed, "linf", margins)
        goal = shifted(case, -0.4)
        found, free, unit, places = parted(case, goal)
        bounds = found._bounding
        bounds.cut(0, free[::2], goal.tolerance, Pace.of(5, 0.3))
        whole = bounds.targets.ends.lower[0].copy(), bounds.targets.ends.upper[0].copy()
        _, u, z = case.points(4000)
        wrong = (u @ goal.rows.T + goal.constants).max(1) <= goal.tolerance
        for place, phase in zip(places, (1, -1), strict=True):
            nowhere = False
            for _ in range(2):
                nowhere |= bounds.cut(place, free, goal.tolerance, Pace.of(20, 0.3))
            mine = wrong & (phase * z[:, unit] >= 0)
            seen += mine.sum()
            assert not (nowhere and mine.any())
            lower, upper = (
                end[place] for end in (bounds.targets.ends.lower, bounds.targets.ends.upper)
            )
            assert (lower <= z[mine] + 1e-9).all()
            assert (z[mine] <= upper + 1e-9).all()
        # Those of the whole are what they were.
        np.testing.assert_array_equal(bounds.targets.ends.lower[0], whole[0])
        np.testing.assert_array_equal(bounds.targets.ends.upper[0], whole[1])
    assert seen > 3


def test_a_part_begins_from_what_the_whole_has_come_to():
    """One step from there is worth more than one from CROWN's slopes."""
    better = []
    for seed in range(4):
        case = Case("two_conv", seed)
        goal = shifted(case, -0.4)
        lines = []
        for warm in (True, False):
            found, free, _, (place, _) = parted(case, goal)
            bounds = found._bounding
            if warm:
                bounds.cut(0, free, goal.tolerance, Pace.of(60, 0.3))
                bounds._cutting.part(0, place)
            bounds.cut(place, free, goal.tolerance, Pace.of(1, 0.0))
            ends = bounds.targets.ends
            lines.append((ends.upper[place] - ends.lower[place])[free].sum())
        better.append(lines[0] < lines[1])
    assert all(better)


@pytest.fixture
def soon(monkeypatch):
    """Searches in which targets are cut and parted after few domains."""
    monkeypatch.setattr(batched, "_LONG", 2)
    monkeypatch.setattr(batched, "_LONGER", 4)
    monkeypatch.setattr(batched, "_PARTS", 2)
    small = closing.Effort(3, 1, 2, 0.3, 2)
    monkeypatch.setattr(closing, "_EFFORT", small)
    monkeypatch.setattr(closing, "PART_EFFORT", small)


@pytest.mark.parametrize("margins", [1, 2])
def test_no_point_is_lost_where_targets_are_parted(soon, margins):
    """Points where the target does not hold stay in domains that wait or are handed over."""
    parts = wrongs = 0
    for seed in range(4):
        case = Case("two_conv", seed, "linf", margins)
        goal = shifted(case, -0.2)
        options = SearchOptions(short=False, steps=2, root_steps=2, batch=4)
        found = search(case, {0: goal}, options)
        found.run(time.monotonic() + 0.5, replays=lambda point: False)
        left = found.handed(0)
        parts += len(found._tally.whole) - 1
        _, u, z = case.points(4000)
        wrong = z[(u @ goal.rows.T + goal.constants).max(1) <= goal.tolerance]
        wrongs += len(wrong)
        assert ((left.phases[:, None] * wrong >= 0).all(2)).any(0).all()
    assert parts > 4
    assert wrongs > 3


@pytest.mark.parametrize("margins", [1, 3])
def test_parted_searches_agree_with_samples(soon, margins):
    outcomes, parts = [], 0
    for seed, shift in itertools.product(range(3), (-0.3, 0.3, 2.0)):
        case = Case("two_conv", seed, "linf", margins)
        goal = shifted(case, shift)
        options = SearchOptions(short=False, steps=2, root_steps=1, batch=4)
        found = search(case, {7: goal}, options)
        found.run(time.monotonic() + 1.0)
        parts += len(found._tally.whole) - 1
        answer = found.answer(7)
        outcomes.append(answer.outcome)
        assert answer.nodes == found._tally.nodes.sum()
        if answer.outcome is Outcome.FOUND:
            u, _ = case.r.values(answer.point[None])
            assert (u @ goal.rows.T + goal.constants).max() <= -goal.tolerance
        elif answer.outcome is Outcome.PROVEN:
            assert goal.tolerance < answer.bound <= shift
        else:
            assert len(found.handed(7))
        assert shift > 0 or answer.outcome is not Outcome.PROVEN
    assert parts > 4
    assert {Outcome.FOUND, Outcome.PROVEN} <= set(outcomes)


def test_a_parted_search_decides_as_one_of_linear_programmes(soon, monkeypatch):
    parts, part = [], BatchedSearch._part

    def counted(self, place):
        parts.append(place)
        part(self, place)

    monkeypatch.setattr(BatchedSearch, "_part", counted)
    monkeypatch.setattr(refining, "_MOST", 0)
    model, x, label, eps, verdict = hard_case()
    found = rt.Verifier(model, eps, solver="batched").verify(x, label)
    assert found.status is verdict.status
    assert parts


def test_a_part_that_is_closed_leaves_nothing_and_proves_the_tolerance(monkeypatch):
    case = Case("dense", 3)
    goal = shifted(case, 0.3)
    found = search(case, {0: goal})
    first, second = np.flatnonzero(found._bounding.targets.ends.lines.free[0])[:2]
    halves = found._bounding.roots(8).halved(np.array([first]))
    found._pool.add(halves.halved(np.array([second, second])))
    monkeypatch.setattr(batched, "_PARTS", 2)
    found._tally.cut[0] = True
    asked = []

    def cut(place, deadline):
        asked.append(place)
        found._tally.proven[place] = np.nextafter(goal.tolerance, np.inf)
        return True

    monkeypatch.setattr(found._closing, "cut", cut)
    found._part(0)
    assert asked == [1, 2]
    assert not len(found.handed(0))
    assert found.proven(0) == np.nextafter(goal.tolerance, np.inf)
    assert found.answer(0).outcome is Outcome.PROVEN


def test_few_domains_wait_on(monkeypatch):
    case = Case("dense", 3)
    found = search(case, {0: shifted(case, 0.3)})
    found._pool.add(dataclasses.replace(found._bounding.roots(8)))
    found._part(0)
    assert len(found._pool) == 1
    assert found._tally.parted[0] == 1
    assert len(found._tally.whole) == 1


def test_parts_stay_within_their_share_of_the_memory(soon):
    """As many as fit; then domains wait as they did."""
    case = Case("two_conv", 1)
    goal = shifted(case, -0.2)
    counts = {}
    for memory in (0.02, 8.0, 1024.0):
        options = SearchOptions(short=False, steps=2, root_steps=2, batch=4, memory_mb=memory)
        found = search(case, {0: goal}, options)
        found.run(time.monotonic() + 0.7, replays=lambda point: False)
        counts[memory] = len(found._tally.whole)
        assert counts[memory] <= found._most_targets
        assert len(found.handed(0))
    assert counts[0.02] == 1 < counts[8.0] <= counts[1024.0]
