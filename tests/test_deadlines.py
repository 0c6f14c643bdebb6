"""Deadlines: what has more to do than there is time for ends with the step under way."""

import time

import numpy as np
import pytest

import robustra_tf as rt
from robustra_tf.exact import Decider, Status, Verifier, batched, properties, searches
from robustra_tf.exact.ascent import Pace
from robustra_tf.exact.bounding import Bounding
from robustra_tf.exact.domains import joined
from robustra_tf.exact.matrices import affine_maps
from robustra_tf.exact.solver import Outcome
from robustra_tf.exact.substitution import Form, restrict
from robustra_tf.graph import build
from robustra_tf.intake.deadline import LateError, check
from tests import nets
from tests.test_exact_batched import hard_case, search, shifted
from tests.test_exact_multipliers import Case

ENDLESS = 10**9
#: Seconds that are given, and what more machines under load may take.
GIVEN, MORE = 0.3, 20.0


def within_time(function):
    """Calls a function with a deadline; its result."""
    start = time.monotonic()
    found = function(start + GIVEN)
    assert GIVEN <= time.monotonic() - start < GIVEN + MORE
    return found


def test_a_deadline_is_a_time_and_infinity_is_none():
    check(np.inf)
    check(time.monotonic() + 100)
    for passed in (time.monotonic(), -np.inf):
        with pytest.raises(LateError):
            check(passed)


def test_an_attack_ends_and_its_points_are_in_the_ball():
    model = nets.randomise(nets.ALL["dense"](), 0)
    x = nets.images(model, 3)
    y = model(x).numpy().argmax(1)
    attack = rt.Attack(model, steps=ENDLESS, restarts=ENDLESS, early_stop=False)
    found = within_time(lambda deadline: attack(x, y, 0.01, deadline=deadline))
    assert rt.attacks.contained(x, found.adversarial, 0.01, "linf", (0.0, 1.0)).all()
    assert np.isfinite(found.margin).all()
    none = attack(x, y, 0.01, deadline=-np.inf)
    np.testing.assert_array_equal(none.adversarial, x)


def test_an_ascent_ends_and_what_it_leaves_proves_something():
    case = Case("two_conv", 1)
    bounds = search(case, {0: shifted(case, -0.4)})._bounding
    root = bounds.roots(4)
    ended = within_time(lambda deadline: bounds.climbed(root, Pace.of(ENDLESS, 0.1, deadline)))
    least = bounds.certified(ended)[0]
    assert least >= bounds.certified(root)[0] - 1e-6
    _, u, _ = case.points(1000)
    goal = shifted(case, -0.4)
    assert least <= (u @ goal.rows.T + goal.constants).max(1).min()
    before = bounds.climbed(root, Pace.of(ENDLESS, 0.1, -np.inf))
    np.testing.assert_allclose(before.bound, bounds.bounded(root), rtol=1e-6)


def test_a_search_ends_and_what_it_leaves_is_open():
    case = Case("two_conv", 1)
    goal = shifted(case, 0.3)
    for seconds in (-1.0, 0.0):
        found = search(case, {0: goal})
        found.run(time.monotonic() + seconds)
        assert found.answer(0).outcome is Outcome.UNDECIDED
        assert len(found.handed(0)) == 1


def test_a_batch_has_no_more_domains_than_there_is_time_for(monkeypatch):
    """A domain takes a hundredth of a second, none is ever closed, and all may be halved."""
    sizes = []

    def slow(self, domains, pace):
        sizes.append(len(domains))
        time.sleep(0.01 * len(domains))
        return domains

    monkeypatch.setattr(Bounding, "climbed", slow)
    for name, found in {
        "_closed": lambda self, given: np.zeros(len(given), bool),
        "_kept": lambda self, given: self._pool.add(given),
        "_split": lambda self, given: joined([given, given]),
        "_tighten": lambda self, place: None,
    }.items():
        monkeypatch.setattr(batched.BatchedSearch, name, found)
    options = batched.SearchOptions(short=False, steps=1, parts=1, root_steps=1)
    case = Case("two_conv", 1)
    search(case, {0: shifted(case, 0.3)}, options).run(time.monotonic() + 3.0)
    assert sum(sizes) > 100
    # Where all that wait were taken, the last batch was as large as all before it.
    assert sizes[-1] < sum(sizes[:-1]) / 2


def test_a_restriction_that_is_late_is_none():
    model = nets.randomise(nets.ALL["two_conv"](), 0)
    graph = build(model)
    sizes = {i: int(np.prod(graph.structure.nodes[i].op.out_shape)) for i in graph.structure.relus}
    bounds = {index: (np.full(size, -9.0), np.full(size, 9.0)) for index, size in sizes.items()}
    size = int(np.prod(model.input_shape[1:]))
    given = graph.structure, affine_maps(graph), np.zeros(size), np.ones(size), bounds
    assert restrict(*given, form=Form(sparse=False), deadline=np.inf).units == sum(sizes.values())
    with pytest.raises(LateError):
        restrict(*given, deadline=-np.inf)


@pytest.mark.parametrize("where", ["restricted", "better"])
def test_a_verdict_that_is_late_keeps_the_bound(monkeypatch, where):
    model, x, label, eps, _ = hard_case()

    def late(*args, **options):
        raise LateError

    monkeypatch.setattr(searches, where, late)
    monkeypatch.setattr(searches, "_FIRST_SECONDS", 0.0)
    verdict = Verifier(model, eps).verify(x, label)
    assert verdict.status is Status.TIMEOUT
    assert verdict.reason.endswith("time limit")
    assert verdict.margin_lower is not None
    assert -np.inf < verdict.margin_lower < 0


def test_boxes_that_no_time_is_left_for_are_not_begun(monkeypatch):
    model = nets.randomise(nets.ALL["dense"](), 0)
    low = np.repeat(nets.images(model, 1).astype(np.float64), 300, axis=0)
    asked = rt.Property(low, low, rt.classified(0))
    begun = []

    def verify(self, given, time_limit, **kept):
        begun.append(time_limit)
        time.sleep(0.2)
        return properties._unknown("nothing")

    monkeypatch.setattr(Verifier, "verify", verify)
    monkeypatch.setattr(Decider, "_attacked", lambda *args: None)
    verdict = Decider(model).decide(asked, 1.0)
    assert verdict.status is Status.TIMEOUT
    assert 1 <= len(begun) <= 5
    assert Decider(model).decide(asked, 0).status is Status.TIMEOUT
    assert len(begun) <= 5
