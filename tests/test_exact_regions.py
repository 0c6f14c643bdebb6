"""Boxes that are split and cut: nothing is lost, nothing is excluded that holds a solution."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from robustra_tf.exact.halfspaces import Groups, HalfSpaces
from robustra_tf.exact.regions import Cuts, Pool, Regions


def spaces(seed, n=8, k=3, sizes=(1, 3, 2)):
    rng = np.random.default_rng(seed)
    value = rng.normal(size=(n, sum(sizes))) + rng.uniform(-0.5, 1.5)
    slope = rng.normal(size=(n, sum(sizes), k)) * rng.choice([0.0, 0.3, 1.0], (n, sum(sizes), k))
    return HalfSpaces(value, slope, Groups.of(list(sizes)))


def programme(given, box, rows):
    """The least over the box of the greatest of some rows, by linear programming."""
    slope, value = given.slope[box, rows], given.value[box, rows]
    k = slope.shape[1]
    found = linprog(
        np.r_[np.zeros(k), 1.0],
        A_ub=np.c_[slope, -np.ones(len(rows))],
        b_ub=-value,
        bounds=[(-1, 1)] * k + [(None, None)],
    )
    return found.fun


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_combinations_are_between_the_best_row_and_the_programme(seed):
    found = spaces(seed)
    bounds, groups = found.bounds(), found.groups
    assert (bounds >= groups.join(np.maximum, found.least) - 1e-12).all()
    for box in range(len(bounds)):
        for number, (first, size) in enumerate(zip(*groups, strict=True)):
            exact = programme(found, box, np.arange(first, first + size))
            assert bounds[box, number] <= exact + 1e-9


def test_combinations_are_close_to_the_programme():
    found, total, reached = spaces(1, n=60, sizes=(4,)), 0.0, 0.0
    bounds, single = found.bounds()[:, 0], found.least.max(1)
    for box in range(60):
        exact = programme(found, box, np.arange(4))
        total, reached = total + exact - single[box], reached + bounds[box] - single[box]
    assert reached > 0.8 * total > 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_what_is_cut_away_is_excluded(seed):
    found, rng = spaces(seed), np.random.default_rng(seed)
    groups, n = found.groups, len(found.value)
    opened = rng.random((n, len(groups.size))) < 0.8
    cut = found.cut(opened)
    assert not (cut.open & ~opened).any()
    points = rng.uniform(-1, 1, (200, n, found.slope.shape[2]))
    values = found.value + np.einsum("nrk,pnk->pnr", found.slope, points)
    inside = ((points >= cut.low) & (points <= cut.high)).all(2)
    for number, (first, size) in enumerate(zip(*groups, strict=True)):
        held = (values[..., first : first + size] <= 0).all(2) & opened[:, number]
        assert (inside | ~held).all()
        assert (cut.open[:, number] | ~held.any(0)).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_what_is_known_beside_of_lone_groups_excludes_and_cuts_no_solution(seed):
    """And says no less than without it; of boxes with several open groups it says nothing."""
    found, rng = spaces(seed), np.random.default_rng(seed)
    groups, (n, _, k) = found.groups, found.slope.shape
    opened = rng.random((n, len(groups.size))) < 0.5
    beside = rng.normal(size=n), rng.normal(size=(n, k))
    bounds, cut = found.left(opened, beside)
    assert not (cut.open & ~opened).any()
    points = rng.uniform(-1, 1, (400, n, k))
    values = found.value + np.einsum("nrk,pnk->pnr", found.slope, points)
    known = beside[0] + np.einsum("nk,pnk->pn", beside[1], points) <= 0
    known |= opened.sum(1) != 1
    inside = ((points >= cut.low) & (points <= cut.high)).all(2)
    for number, (first, size) in enumerate(zip(*groups, strict=True)):
        held = (values[..., first : first + size] <= 0).all(2) & opened[:, number] & known
        assert (inside | ~held).all()
        assert (cut.open[:, number] | ~held.any(0)).all()
        assert (~held.any(0) | (bounds[:, number] <= 1e-12)).all()
    least = groups.join(np.maximum, found.least)
    assert (bounds >= least - 1e-12)[opened].all()
    several = opened.sum(1) > 1
    np.testing.assert_array_equal(bounds[several], found.bounds()[several])


def test_a_row_and_what_is_known_beside_exclude_together():
    """`t0 <= -0.2` with `t0 >= 0.2` known leaves nothing; of two open groups it is not known."""
    given = HalfSpaces(np.full((3, 2), 0.2), np.tile([1.0, 0.0], (3, 2, 1)), Groups.of([1, 1]))
    beside = np.full(3, 0.2), np.tile([-1.0, 0.0], (3, 1))
    opened = np.array([[True, False], [True, True], [False, True]])
    bounds, cut = given.left(opened, beside)
    np.testing.assert_array_equal(cut.open, [[False, False], [True, True], [False, False]])
    assert bounds[0, 0] == bounds[2, 1] > 0 > bounds[1].max()


def test_the_best_row_is_of_the_group_that_is_asked():
    value = np.array([[3.0, 1.0, 2.0], [3.0, np.nan, -2.0], [3.0, np.nan, np.nan]])
    given = HalfSpaces(value, np.zeros((3, 3, 1)), Groups.of([1, 2]))
    np.testing.assert_array_equal(given.best(np.array([1, 1, 1]))[:2], [2, 2])
    np.testing.assert_array_equal(given.best(np.array([0, 0, 0])), [0, 0, 0])


def test_half_spaces_of_a_box_are_those_of_its_halves():
    """Value and slope about each one's middle give the same numbers at the same points."""
    rng = np.random.default_rng(2)
    whole = regions(rng, 20)
    halves, _ = halved(whole, rng.random((20, 3)))
    for own in (whole, halves):
        value, slope = own.half_space
        t = rng.uniform(-1, 1, slope.shape)
        points = own.middle + t * own.radius
        there = own.offset + (own.normal * points).sum(1)
        np.testing.assert_allclose(value + (slope * t).sum(1), there, atol=1e-12)


def test_one_half_space_is_cut_at_its_corner():
    given = HalfSpaces(np.array([[1.0]]), np.array([[[1.0, -0.5]]]), Groups.of([1]))
    cut = given.cut(np.ones((1, 1), bool))
    # t0 - 0.5 t1 <= -1: t0 is at most -0.5, t1 at least 0.
    np.testing.assert_allclose(cut.high, [[-0.5, 1.0]], atol=1e-5)
    np.testing.assert_allclose(cut.low, [[-1.0, 0.0]], atol=1e-5)


def test_half_spaces_of_a_group_cut_together_and_groups_leave_their_hull():
    """`t0 <= -0.2`, `t0 >= -0.7` and `t1 >= 0` are one group; `t0 <= 0.5`, `t0 >= 0.1` another."""
    slope = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, -1.0], [1.0, 0.0], [-1.0, 0.0]])
    value = np.array([0.2, -0.7, 0.0, -0.5, 0.1])
    given = HalfSpaces(value[None], slope[None], Groups.of([3, 2]))
    for opened, low, high in (
        ([True, False], [-0.7, 0.0], [-0.2, 1.0]),
        ([False, True], [0.1, -1.0], [0.5, 1.0]),
        ([True, True], [-0.7, -1.0], [0.5, 1.0]),
    ):
        cut = given.cut(np.array([opened]))
        np.testing.assert_allclose(cut.low, [low], atol=1e-5)
        np.testing.assert_allclose(cut.high, [high], atol=1e-5)
        np.testing.assert_array_equal(cut.open, [opened])
    apart = HalfSpaces(-value[None], -slope[None], Groups.of([3, 2]))
    assert not apart.cut(np.ones((1, 2), bool)).open.any()


def test_numbers_that_are_none_cut_and_exclude_nothing():
    value = np.array([[np.nan], [np.inf], [-np.inf], [5.0]])
    slope = np.array([[[1.0, 2.0]], [[np.inf, 1.0]], [[1.0, 1.0]], [[np.nan, 1.0]]])
    given = HalfSpaces(value, slope, Groups.of([1]))
    with np.errstate(invalid="ignore"):
        cut = given.cut(np.ones((4, 1), bool))
        assert not (given.bounds() > 0).any()
    np.testing.assert_array_equal(cut.low, -1.0)
    np.testing.assert_array_equal(cut.high, 1.0)
    assert cut.open.all()


def regions(rng, n, k=3, g=2):
    low = rng.uniform(-1, 1, (n, k))
    width = rng.random((n, k)) * (rng.random((n, k)) < 0.7)
    opened = np.ones((n, g), bool)
    crossing = rng.integers(0, 9, n) * 1.0
    spaces = rng.normal(size=n), rng.normal(size=(n, k))
    return Regions(low, low + width, opened, rng.normal(size=n), crossing, np.arange(n), *spaces)


def halved(whole, score):
    """The halves, and which boxes have none."""
    cuts = whole.cuts(score)
    atoms = cuts.entry < 0
    own, cuts = whole.take(~atoms), Cuts(*(part[~atoms] for part in cuts))
    return own.halves(cuts, np.zeros(2 * own.boxes, int)), atoms


def test_halves_share_their_cut_and_cover_the_box():
    rng = np.random.default_rng(0)
    whole = regions(rng, 50)
    halves, atoms = halved(whole, rng.random((50, 3)))
    np.testing.assert_array_equal(atoms, (whole.low == whole.high).all(1))
    left, parts = whole.take(~atoms), halves.boxes // 2
    second, first = halves.take(slice(parts)), halves.take(slice(parts, None))
    np.testing.assert_array_equal(first.low, left.low)
    np.testing.assert_array_equal(second.high, left.high)
    cut = first.high != left.high
    assert (cut.sum(1) == 1).all()
    np.testing.assert_array_equal(first.high[cut], second.low[cut])
    np.testing.assert_array_equal(second.low[~cut], left.low[~cut])


@pytest.mark.parametrize("seed", range(4))
def test_what_is_closed_bit_by_bit_is_the_whole_box(seed):
    """Some boxes closed at random, all others halved and put back, until none waits."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(-1, 1, 3)
    high = low + rng.uniform(0.1, 1, 3)
    pool = Pool(Regions.whole(low, high, 1, 1))
    closed = []
    for count in itertools.count():
        if not len(pool):
            break
        taken = pool.next(8, 100, 2)
        shut = rng.random(taken.boxes) < (0.1 if count < 40 else 0.8)
        closed.append(taken.take(shut))
        parts, atoms = halved(taken.take(~shut), rng.random((int((~shut).sum()), 3)))
        assert not atoms.any()
        pool.put(parts._replace(bound=rng.normal(size=parts.boxes)))
    lows, highs = (
        np.concatenate([getattr(each, end) for each in closed]) for end in Regions._fields[:2]
    )
    assert len(lows) > 50
    np.testing.assert_allclose((highs - lows).prod(1).sum(), (high - low).prod(), rtol=1e-12)
    points = rng.uniform(low, high, (2000, 3))
    inside = ((points[:, None] >= lows) & (points[:, None] <= highs)).all(2)
    assert inside.any(1).all()


def test_boxes_of_neighbouring_float32_numbers_are_not_split():
    one = np.float32(1.0)
    low = np.array([[one, 0.0], [one, 0.0]], np.float64)
    high = np.array([[np.nextafter(one, np.float32(2)), 0.0], [1.001, 0.0]], np.float64)
    known = np.ones((2, 1), bool), np.zeros(2), np.zeros(2), np.arange(2)
    whole = Regions(low, high, *known, np.zeros(2), np.zeros((2, 2)))
    halves, atoms = halved(whole, np.array([[0.0, 9.0], [0.0, 9.0]]))
    assert atoms.tolist() == [True, False]
    assert halves.boxes == 2


def test_the_pool_gives_every_box_once_and_the_worst_first():
    rng = np.random.default_rng(0)
    given = regions(rng, 100)
    pool, seen = Pool(given.take(slice(60))), []
    pool.put(given.take(slice(60, None)))
    taken = pool.next(10, 1000, 1)
    assert taken.boxes == 10
    np.testing.assert_allclose(np.sort(taken.bound), np.sort(given.bound)[:10])
    seen.append(taken.bound)
    while len(pool):
        taken = pool.next(32, 60, 4)
        assert 1 <= taken.boxes <= 15
        assert taken.boxes == 1 or (taken.crossing + 4).sum() <= 60
        seen.append(taken.bound)
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.sort(given.bound))


def test_whatever_the_order_and_the_count_the_pool_gives_the_least_bounds():
    rng = np.random.default_rng(1)
    given = regions(rng, 300)
    for bound in (given.bound, np.sort(given.bound), -np.sort(-given.bound)):
        for most in range(1, 301):
            found = Pool(given._replace(bound=bound)).next(most, 10**6, 1).bound
            np.testing.assert_array_equal(np.sort(found), np.sort(bound)[:most])
