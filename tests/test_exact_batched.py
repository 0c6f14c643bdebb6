"""The search over many domains: what it hands over, memory, splits, and what it must not close."""

import dataclasses
import functools
import itertools
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import robustra_tf as rt
from robustra_tf.exact import Status, Verifier, batched, branching, closing, options, searches
from robustra_tf.exact.ascent import Pace, engine
from robustra_tf.exact.batched import BatchedSearch
from robustra_tf.exact.bounding import Bounding
from robustra_tf.exact.domains import Domains, Pool, joined
from robustra_tf.exact.multipliers import Kind
from robustra_tf.exact.options import SearchOptions
from robustra_tf.exact.solver import Outcome
from robustra_tf.exact.targets import Target
from tests import nets
from tests.test_exact_multipliers import Case

OPTIONS = SearchOptions(short=False, steps=2, root_steps=2)


def domains(bounds, target=0, units=3):
    count = len(bounds)
    return Domains(
        np.full(count, target),
        np.array(bounds, float),
        np.zeros((count, units), np.int8),
        np.full((count, units), 0.5, np.float16),
        np.ones((count, 1), np.float32),
        np.tile(np.arange(2), (count, 1)),
        np.zeros((count, 2), np.float32),
    )


def search(case, targets=None, options=OPTIONS):
    targets = targets or {4: Target(case.rows, case.constants, 1e-4)}
    found = BatchedSearch(case.r, case.x, case.radius, targets, options)
    found.check(case.points(20)[0])
    return found


def shifted(case, margin):
    """The case's margins, so that the least of the greatest that samples have is `margin`."""
    _, u, _ = case.points(4000)
    least = (u @ case.rows.T + case.constants).max(1).min()
    return Target(case.rows, case.constants - least + margin, 1e-4)


def test_the_pool_gives_the_worst_until_it_is_full_and_then_the_best():
    pool = Pool(capacity=6)
    pool.add(domains([3.0, -2.0, 1.0]))
    pool.add(domains([0.0, -5.0, 2.0]))
    assert sorted(pool.take(2).bound) == [-5.0, -2.0]
    pool.add(domains([-1.0, -3.0, 7.0, 9.0]))
    assert len(pool) == 8
    assert sorted(pool.take(2).bound) == [7.0, 9.0]
    assert sorted(pool.take(99).bound) == [-3.0, -1.0, 0.0, 1.0, 2.0, 3.0]
    assert len(pool) == 0


def test_halves_cover_and_take_nothing_over_for_the_phase():
    whole = domains([0.0, 1.0])
    halves = whole.halved(np.array([2, 0]))
    np.testing.assert_array_equal(halves.phases, [[0, 0, 1], [1, 0, 0], [0, 0, -1], [-1, 0, 0]])
    assert halves.unit[0, 2] == 0
    assert halves.unit[0, 0] == 0.5
    assert not whole.phases.any()


def test_halves_begin_at_no_less_than_what_the_whole_is_bounded_by():
    """Where the coefficient is positive: what the slope took, the two phases take."""
    seen = 0
    for norm, seed in itertools.product(("linf", "l1"), range(3)):
        case = Case("two_conv", seed, norm)
        found = search(case, {0: shifted(case, 0.3)})
        found._bound(found._bounding.roots(8), 20)
        for _ in range(2):
            if len(found._pool):
                found._bound(found._split(found._pool.take(1)), 5)
        if not len(found._pool):
            continue
        domains = found._pool.take(99)
        for place in range(domains.choices.shape[1]):
            pull, unit = domains.pull[:, place], domains.choices[:, place]
            part = domains.take((pull > 0) & (unit >= 0))
            pull, unit = part.pull[:, place], part.choices[:, place]
            halves = found._bounding.bounded(part.halved(unit, pull))
            # The slope and the multipliers are halves of float32.
            spread = 1e-2 * (1.0 + np.abs(pull))
            assert (halves >= np.tile(found._bounding.bounded(part) - spread, 2)).all()
            seen += (halves > found._bounding.bounded(part.halved(unit)) + 1e-6).sum()
    assert seen > 3


@pytest.mark.parametrize("norm", ["linf", "l1"])
@pytest.mark.parametrize("margins", [1, 2])
def test_every_split_covers_the_ball(norm, margins):
    """Each point of the ball is in a domain that waits or was closed with a bound below it."""
    case = Case("dense", 3, norm, margins)
    goal = shifted(case, 0.3)
    found = search(case, {0: goal})
    closed, original = [], found._closed

    def closing(domains):
        mask = original(domains)
        closed.append(domains.take(mask))
        return mask

    found._closed = closing
    found._bound(found._bounding.roots(8), 2)
    for _ in range(3):
        if len(found._pool):
            found._bound(found._split(found._pool.take(8)), 2)
    everything = joined([found.handed(0), *closed])
    _, u, z = case.points(300)
    inside = (everything.phases[:, None] * z >= 0).all(2)
    assert inside.any(0).all()
    margin = (u @ goal.rows.T + goal.constants).max(1)
    for part in closed:
        sure = found._bounding.certified(part)
        for bound, row in zip(sure, part.phases, strict=True):
            assert bound > goal.tolerance
            assert bound <= margin[(row * z >= 0).all(1)].min(initial=np.inf)


def test_a_domain_is_split_where_it_has_candidates_and_few_into_more():
    """Of two candidates and of one: four quarters and two halves, and no domain twice."""
    found = search(Case("dense", 3))
    roots = found._bounding.roots(2)
    both = joined([roots, roots])
    both.choices[:] = [[2, 0], [1, -1]]
    parts = found._split(both)
    phases = {tuple(row[:3]) for row in parts.phases.tolist()}
    quarters = set(itertools.product((-1, 1), (0,), (-1, 1)))
    assert phases == quarters | {(0, 1, 0), (0, -1, 0)}
    assert len(parts) == 6
    many = joined([found._bounding.roots(2)] * 9)
    many.choices[:] = [2, 0]
    assert len(found._split(many)) == 18  # no more than halves where that is more than a few


@pytest.mark.parametrize("margins", [1, 3])
def test_cut_bounds_hold_where_the_target_does_not(margins):
    """Of all points, those where no margin is positive."""
    seen = 0
    for seed in range(3):
        case = Case("two_conv", seed, "linf", margins)
        goal = shifted(case, -0.4)
        bounds = search(case, {0: goal})._bounding
        before = bounds.targets.ends.lower.copy(), bounds.targets.ends.upper.copy()
        free = np.flatnonzero(bounds.targets.ends.lines.free[0])
        for _ in range(2):
            assert not bounds.cut(0, free, goal.tolerance, Pace.of(20, 0.3))
        lower, upper = bounds.targets.ends.lower[0], bounds.targets.ends.upper[0]
        for gained in (lower - before[0][0], before[1][0] - upper):
            assert (gained >= 0).all()
            assert gained.sum() > 1e-3
        _, u, z = case.points(4000)
        wrong = (u @ goal.rows.T + goal.constants).max(1) <= goal.tolerance
        seen += wrong.sum()
        assert (lower <= z[wrong] + 1e-9).all()
        assert (z[wrong] <= upper + 1e-9).all()
    assert seen > 3


def test_cuts_prove_no_more_than_the_tolerance():
    """Where bounds are cut, a proof says that a target holds, and not by how much."""
    proven = 0
    for seed, shift in itertools.product(range(3), (0.3, 0.6, 1.2)):
        case = Case("two_conv", seed)
        goal = shifted(case, shift)
        found = search(case, {3: goal}, SearchOptions(short=False, root_steps=1))
        root = found._bounding.climbed(found._bounding.roots(8), Pace.of(1, 0.1))
        if found._closed(root).all():
            assert found.proven(3) > 2 * goal.tolerance
            continue
        found._pool.add(root)
        found._tighten(0)
        if not len(found._pool):
            proven += 1
            assert found.proven(3) == np.nextafter(goal.tolerance, np.inf)
    assert proven > 0


@pytest.mark.parametrize(
    ("bounds", "cuts"),
    [
        ([-1.0, -1.0], 1),  # the second is no better
        ([-1.0, -0.96, -0.95], 1),  # by less than a twentieth
        ([-1.0, -0.9, -0.9], 2),
        ([-1.0, -0.9, -0.8, -0.7, -0.6], 4),  # as often as it may be
    ],
)
def test_bounds_are_cut_again_while_that_gains(bounds, cuts, monkeypatch):
    found, left, done = search(Case("dense", 3)), list(bounds), []

    def climbed(domains, pace):
        return dataclasses.replace(domains, bound=np.array([left.pop(0)]))

    monkeypatch.setattr(closing, "_EFFORT", closing._EFFORT._replace(times=4))
    monkeypatch.setattr(found._bounding, "climbed", climbed)
    monkeypatch.setattr(found._bounding, "cut", lambda *_: done.append(1))
    found._tighten(0)
    assert len(done) == cuts


@pytest.mark.parametrize("margins", [1, 3])
def test_answers_agree_with_samples(margins):
    """Margins shifted so that samples are a little above zero, or below."""
    outcomes = []
    for seed, shift in itertools.product(range(4), (-0.3, 0.5)):
        case = Case("dense", seed, "linf", margins)
        goal = shifted(case, shift)
        found = search(case, {7: goal}, SearchOptions(short=False))
        found.run(time.monotonic() + 20)
        answer = found.answer(7)
        outcomes.append(answer.outcome)
        if shift < 0:
            assert answer.outcome is Outcome.FOUND
            assert answer.bound == -np.inf
            u, _ = case.r.values(answer.point[None])
            assert (u @ goal.rows.T + goal.constants).max() <= -goal.tolerance
        elif answer.outcome is Outcome.PROVEN:
            assert goal.tolerance < answer.bound <= shift
    assert outcomes.count(Outcome.PROVEN) >= 2


def test_a_point_that_does_not_replay_ends_nothing():
    case = Case("dense", 1)
    found = search(case, {0: shifted(case, -0.5)})
    asked = []
    found.run(time.monotonic() + 3, replays=lambda point: bool(asked.append(point)))
    assert asked
    assert not found.found
    assert found.answer(0).outcome is Outcome.UNDECIDED


def test_a_batch_that_does_not_fit_is_halved_and_said_once(monkeypatch):
    case = Case("dense", 2)
    goals = {k: shifted(case, 0.2) for k in range(6)}
    expected = search(case, goals)
    expected.run(time.monotonic() + 20)
    climbed, seen = Bounding.climbed, []

    def small(self, domains, pace):
        seen.append(len(domains))
        if len(domains) > 3:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")
        return climbed(self, domains, pace)

    monkeypatch.setattr(Bounding, "climbed", small)
    found = search(case, goals)
    with pytest.warns(
        RuntimeWarning, match="does not fit the device's memory: 3 at a time"
    ) as told:
        found.run(time.monotonic() + 20)
    assert len(told) == 1
    assert max(seen) == 6
    for number in goals:
        assert found.answer(number).outcome is expected.answer(number).outcome


def test_one_domain_that_does_not_fit_is_an_error(monkeypatch):
    def never(self, domains, pace):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")

    monkeypatch.setattr(Bounding, "climbed", never)
    with pytest.raises(tf.errors.ResourceExhaustedError):
        search(Case("dense", 2)).run(time.monotonic() + 5)


def test_a_float32_bound_alone_closes_nothing(monkeypatch):
    """An ascent that promises too much, as an optimiser's status might."""
    climbed = Bounding.climbed

    def promising(self, domains, pace):
        found = climbed(self, domains, pace)
        found.bound[:] = 1.0
        return found

    case = Case("dense", 1)
    goal = shifted(case, -0.2)
    monkeypatch.setattr(Bounding, "climbed", promising)
    found = search(case, {0: goal})
    found.run(time.monotonic() + 5)
    assert found.answer(0).outcome is Outcome.FOUND
    assert found.answer(0).bound == -np.inf


def test_bounds_that_are_not_numbers_close_nothing():
    case = Case("dense", 1)
    bounds = search(case)._bounding
    damaged = bounds.roots(2)
    damaged.unit[:] = np.nan
    assert bounds.certified(damaged)[0] == -np.inf
    assert bounds.bounded(damaged)[0] == -np.inf
    assert bounds.climbed(damaged, Pace.of(2, 0.1)).bound[0] == -np.inf


def test_other_matrices_than_the_networks_are_an_error():
    case = Case("residual", 1)
    found = search(case)
    network = found._bounding._double
    block = network.weights[-1][0]
    damaged = block._replace(values=block.values + 1e-3)
    weights = (*network.weights[:-1], (damaged, *network.weights[-1][1:]))
    found._bounding._double = network._replace(weights=weights)
    with pytest.raises(ValueError, match="a fault of the verifier, not a verdict"):
        found.check(case.points(20)[0])


@functools.cache
def hard_case():
    """(model, x, label, eps, verdict): margins near zero, decided by more than a few nodes."""
    model = nets.two_conv()
    for seed in range(20):
        x = nets.images(model, 1, seed=seed)[0]
        label = int(model(x[None]).numpy().argmax())
        for eps in np.linspace(0.05, 0.3, 11):
            verdict = Verifier(model, float(eps), solver="branch").verify(x, label)
            if verdict.nodes > 12 and verdict.status is Status.VERIFIED:
                return model, x, label, float(eps), verdict
            if verdict.status is Status.FALSIFIED:
                break
    raise AssertionError("no radius makes this network hard")


def hard(solver, **options):
    model, x, label, eps, verdict = hard_case()
    return verdict, Verifier(model, eps, solver=solver, **options).verify(x, label)


def test_linear_programmes_take_over_where_they_are_cheaper(monkeypatch):
    """Measured costs that say so: what is left of every target goes to them, and is decided."""
    monkeypatch.setattr(searches, "_FIRST_NODES", 2)
    monkeypatch.setattr(batched, "_UNMEASURED", 0)
    monkeypatch.setattr(batched, "_CHEAPER", 0.0)
    monkeypatch.setattr(branching, "_FEW", 2)
    expected, found = hard("auto")
    assert found.search.startswith("branch batched")
    assert found.status is expected.status
    assert found.solves > 2


def test_domains_without_an_open_relu_go_to_linear_programmes(monkeypatch):
    monkeypatch.setattr(BatchedSearch, "_closed", lambda self, d: np.zeros(len(d), bool))
    monkeypatch.setattr(batched, "_CANDIDATES", 4)
    expected, found = hard("batched", time_limit=4.0)
    assert found.status in (expected.status, Status.TIMEOUT)
    assert found.status is not Status.VERIFIED or expected.status is Status.VERIFIED


def test_verdicts_say_which_search_took_them():
    expected, found = hard("batched")
    assert expected.search == "branch"
    assert found.search == "batched"
    assert found.status is expected.status
    assert found.nodes > 0


def test_little_memory_changes_no_verdict():
    expected, found = hard("batched", memory_mb=0.01)
    assert found.status is expected.status


def test_one_trace_serves_all_sizes():
    hard("batched")
    before = {f.experimental_get_tracing_count() for f in engine((1, 2), Kind("linf"), 1)}
    hard("batched", memory_mb=0.02)
    assert {f.experimental_get_tracing_count() for f in engine((1, 2), Kind("linf"), 1)} == before


def test_a_property_of_several_margins_is_searched():
    """None of both conditions can be excluded alone: their mix is."""
    model = keras.Sequential(
        [keras.Input((2,)), layers.Dense(4, activation="relu"), layers.Dense(2)]
    )
    model.layers[0].set_weights([np.array([[1.0, -1, 0, 0], [0, 0, 1, -1]]), np.zeros(4)])
    model.layers[1].set_weights([np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]]), np.zeros(2)])
    # f = (|x_1|, |x_2|): never are both at most -0.1; and (0, 0) is reached.
    never = rt.unreachable((np.array([[1.0, 1.0], [1.0, -1.0]]), np.array([-0.1, 0.0])))
    both = rt.unreachable((np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0.05, 0.05])))
    for output, status in ((never, Status.VERIFIED), (both, Status.FALSIFIED)):
        asked = rt.Property(-np.ones((1, 2)), np.ones((1, 2)), output)
        assert Verifier(model, solver="batched").verify(asked).status is status


def test_two_at_a_time_are_the_fewest_and_nothing_is_said_of_less(monkeypatch):
    climbed = Bounding.climbed

    def alone(self, domains, pace):
        if len(domains) > 1:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")
        return climbed(self, domains, pace)

    monkeypatch.setattr(Bounding, "climbed", alone)
    case = Case("dense", 2)
    with pytest.warns(RuntimeWarning, match="does not fit") as told:
        search(case, {k: shifted(case, 0.2) for k in range(6)}).run(time.monotonic() + 20)
    assert [str(each.message).split(": ")[1][:1] for each in told] == ["3", "1"]


def test_a_batch_holds_what_half_of_the_memory_does():
    case = Case("dense", 2)
    sizes = {}
    for memory in (0.05, 0.1, 0.2, 1e6):
        found = search(case, options=dataclasses.replace(OPTIONS, memory_mb=memory, batch=4000))
        sizes[memory] = found._batch
        held = 4 * options._COPIES * found._bounding.numbers * sizes[memory]
        assert sizes[memory] == 2 or held <= 0.5 * memory * 2**20
    assert 2 <= sizes[0.05] < sizes[0.1] < sizes[0.2] < sizes[1e6] == 4000


def test_at_the_deadline_nothing_is_closed_any_more(monkeypatch):
    case = Case("dense", 1)
    for deadline, outcome in ((5.0, Outcome.UNDECIDED), (5.5, Outcome.PROVEN)):
        found = search(case, {0: shifted(case, 9.0)})
        monkeypatch.setattr(batched.time, "monotonic", lambda: 5.0)
        found.run(deadline)
        answer = found.answer(0)
        assert (answer.outcome, answer.solves) == (outcome, 0)


@pytest.mark.parametrize(("times", "asked"), [(1.0, True), (0.999, False)])
def test_a_margin_of_minus_the_tolerance_is_a_counterexample(times, asked, monkeypatch):
    found = search(Case("dense", 1))
    seen = found._bounding.seen

    def at(domains):
        margin = np.full(len(domains), -times * found._tally.tolerance[0])
        return seen(domains)._replace(margin=margin)

    monkeypatch.setattr(found._bounding, "seen", at)
    found._kept(found._bounding.roots(4))
    assert found.found == asked
