"""Verdicts against brute force over activation patterns, and solvers that misbehave."""

import itertools
import sys
import time
import types

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import robustra_tf as rt
from robustra_tf.attacks import contained
from robustra_tf.evidence.region import Region
from robustra_tf.exact import Status, Verifier, searches
from robustra_tf.exact.branch import BranchAndBound, _Node, _Search
from robustra_tf.exact.encoding import encode
from robustra_tf.exact.highs import Highs, Solved
from robustra_tf.exact.leaves import Duals, Keeper, Margins, Named
from robustra_tf.exact.matrices import affine_maps
from robustra_tf.exact.solver import TOLERANCE, Answer, Outcome, Question, judge, undecided
from robustra_tf.exact.substitution import restrict
from robustra_tf.exact.tighten import enclosed
from robustra_tf.graph import build
from tests import exact_networks, nets, oracle_nets, oracles
from tests.oracle_exact import TooManyPiecesError, least_margin

NAMES = ("dense", "conv", "residual", "batch_norm")
MODELS = {name: nets.ALL[name]() for name in (*NAMES, "two_conv")}
BOX = (0.0, 1.0)


class Drawn:
    """A random network and image with the exact least margin of a ball small enough for it."""

    def __init__(self, name, seed, eps, norm="linf"):
        self.model, self.norm = nets.randomise(MODELS[name], seed), norm
        self.net = oracle_nets.of_model(self.model)
        self.x = nets.images(self.model, 1, seed=seed)[0]
        self.flat = self.x.astype(np.float64).ravel()
        self.label = int(self.net.logits(self.flat).argmax())
        while True:
            low, high = np.maximum(self.flat - eps, 0), np.minimum(self.flat + eps, 1)
            radius = eps if norm == "l1" else None
            try:
                self.exact = least_margin(self.net, self.flat, self.label, low, high, radius)
                break
            except TooManyPiecesError:
                eps *= 0.6
        self.eps, self.low, self.high = eps, low, high

    def check(self, verdict):
        """The verdict is the one that the exact margin asks for, and so is what it carries."""
        if self.exact > 2 * TOLERANCE:
            assert verdict.status is Status.VERIFIED, (self.exact, verdict)
        if self.exact < -2 * TOLERANCE:
            assert verdict.status is Status.FALSIFIED, (self.exact, verdict)
        if verdict.margin_lower is not None:
            assert verdict.margin_lower <= self.exact + 1e-6
        if verdict.status is Status.FALSIFIED:
            self.check_witness(verdict)
        else:
            assert verdict.witness is None

    def check_witness(self, verdict):
        witness = verdict.witness[None]
        assert contained(self.x[None], witness, self.eps, self.norm, BOX).all()
        logits = self.model(witness).numpy()[0]
        assert verdict.target == logits.argmax() != self.label


def samples_never_beat(drawn):
    rng = np.random.default_rng(0)
    points = rng.uniform(drawn.low, drawn.high, (50, len(drawn.low)))
    logits = drawn.net.logits(points)
    others = np.delete(logits, drawn.label, axis=1).max(axis=1)
    assert (logits[:, drawn.label] - others).min() >= drawn.exact - 1e-7


@pytest.mark.parametrize("name", NAMES)
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    seed=st.integers(0, 2**31 - 1),
    eps=st.sampled_from([0.02, 0.05, 0.1, 0.2]),
    solver=st.sampled_from(["branch", "highs", "batched", "batched"]),
)
def test_verdicts_equal_brute_force(name, seed, eps, solver):
    drawn = Drawn(name, seed, eps)
    verdict = Verifier(drawn.model, drawn.eps, box=BOX, solver=solver).verify(drawn.x, drawn.label)
    drawn.check(verdict)
    samples_never_beat(drawn)
    # The relaxation never promises more than there is.
    least = rt.certify(
        drawn.model, drawn.x[None], np.array([drawn.label]), drawn.eps, box=BOX, dtype="float64"
    ).worst_margin[0]
    assert least <= drawn.exact + 1e-7


@pytest.mark.parametrize("solver", ["branch", "batched"])
@pytest.mark.parametrize("seed", range(6))
def test_the_l1_ball(seed, solver):
    drawn = Drawn("dense", seed, 0.4, norm="l1")
    verifier = Verifier(drawn.model, drawn.eps, norm="l1", box=BOX, solver=solver)
    drawn.check(verifier.verify(drawn.x, drawn.label))


@pytest.mark.parametrize("solver", ["auto", "branch", "highs"])
@pytest.mark.parametrize("seed", range(4))
def test_searches_behind_tightened_bounds(solver, seed, monkeypatch):
    """One node a first search: everything harder goes through tightening and the solver."""
    monkeypatch.setattr(searches, "_FIRST_NODES", 1)
    drawn = Drawn("dense", seed + 100, 0.3)
    verdict = Verifier(drawn.model, drawn.eps, solver=solver).verify(drawn.x, drawn.label)
    drawn.check(verdict)


@pytest.mark.parametrize("norm", ["linf", "l1"])
@pytest.mark.parametrize("solver", [BranchAndBound(), Highs()], ids=lambda solver: solver.name)
def test_margins_a_hair_from_zero_are_told_apart(solver, norm):
    """Shifted so that the exact least margin is just above or below zero: all must be searched."""
    nodes = 0
    for seed in range(8):
        drawn = Drawn("dense", seed + 200, 0.3 if norm == "linf" else 0.8, norm)
        graph = build(drawn.model)
        rows = oracles.target_rows(drawn.label, nets.CLASSES)
        ball = (drawn.x.astype(np.float64), rows, drawn.eps, norm, BOX)
        found = enclosed(graph.structure, graph.weights(tf.float64), *ball)
        ends = drawn.low, drawn.high
        small = restrict(graph.structure, affine_maps(graph), *ends, found.bounds)
        radius = drawn.eps if norm == "l1" else None
        encoding = encode(small, drawn.flat, l1_radius=radius)
        target = (drawn.label + 1) % nets.CLASSES
        exact = least_margin(drawn.net, drawn.flat, drawn.label, *ends, radius, targets=[target])
        row, constant = small.margin(rows[target])
        above = solver.decide(Question(encoding, row, constant - exact + 0.002), 20.0)
        assert above.outcome is Outcome.PROVEN
        assert TOLERANCE < above.bound <= 0.002 + 1e-6
        below = solver.decide(Question(encoding, row, constant - exact - 0.002), 20.0)
        assert below.outcome is Outcome.FOUND
        nodes += above.nodes
    assert nodes > 20 or solver.name == "highs"


def hard_case():
    """An image that neither the dual nor the relaxation decides: (model, x, label, eps)."""
    model = nets.two_conv()
    x = nets.images(model, 1, seed=3)[0]
    label = int(model(x[None]).numpy().argmax())
    for eps in np.linspace(0.02, 0.3, 40):
        verdict = Verifier(model, eps).verify(x, label)
        if verdict.nodes > 3:
            return model, x, label, float(eps), verdict
    raise AssertionError("no radius makes this network hard")


@pytest.fixture(scope="module")
def hard():
    return hard_case()


class Fake:
    """A solver that answers as it is told."""

    name = "fake"

    def __init__(self, answer):
        self.answer, self.asked = answer, 0

    def decide(self, question, seconds):
        self.asked += 1
        return self.answer(question)


def outside(question):
    return np.full(question.encoding.restriction.pixels, 9.0)


@pytest.mark.parametrize(
    "answer",
    [
        lambda question: undecided("odd status"),
        lambda question: Answer(Outcome.PROVEN, -np.inf, None, 1, 1),
        lambda question: Answer(Outcome.PROVEN, np.nan, None, 1, 1),
        lambda question: Answer(Outcome.PROVEN, 0.5 * TOLERANCE, None, 1, 1),
        lambda question: Answer(Outcome.UNDECIDED, 1.0, None, 1, 1, "a bound is no proof"),
    ],
)
def test_a_solver_that_fails_leaves_the_image_unknown(hard, answer):
    model, x, label, eps, _ = hard
    fake = Fake(answer)
    verdict = Verifier(model, eps, solver=fake).verify(x, label)
    assert fake.asked > 0
    assert verdict.status is Status.UNKNOWN
    assert verdict.reason


def test_a_point_that_does_not_replay_is_no_witness(hard):
    """The clean image itself, or one far outside, handed over as a counterexample."""
    model, x, label, eps, truth = hard
    for point in (lambda question: question.start, outside):
        fake = Fake(lambda question, point=point: Answer(Outcome.FOUND, 0, point(question), 1, 1))
        verdict = Verifier(model, eps, solver=fake).verify(x, label)
        assert verdict.status is not Status.VERIFIED
        if verdict.status is Status.FALSIFIED:
            # Descent may repair the point where there is a counterexample.
            assert truth.status is Status.FALSIFIED
            assert contained(x[None], verdict.witness[None], eps).all()
            assert model(verdict.witness[None]).numpy().argmax() != label


def test_time_zero_is_unknown_or_free(hard):
    model, x, label, eps, truth = hard
    for solver in ("auto", "batched", "branch", "highs"):
        verdict = Verifier(model, eps, solver=solver, time_limit=0.0).verify(x, label)
        assert verdict.status is Status.TIMEOUT
        assert "time limit" in verdict.reason
    assert truth.status in (Status.VERIFIED, Status.FALSIFIED)


@pytest.mark.parametrize("solver", [Highs(), BranchAndBound(nodes=None), "batched"])
def test_solvers_of_both_kinds_agree(hard, solver):
    model, x, label, eps, truth = hard
    verdict = Verifier(model, eps, solver=solver).verify(x, label)
    assert verdict.status is truth.status


def test_a_broken_highs_is_undecided(hard, monkeypatch):
    def broken(self, *args):
        raise RuntimeError("out of licence")

    model, x, label, eps, _ = hard
    monkeypatch.setattr("robustra_tf.exact.branch.LinearProgrammes.solve", broken)
    verdict = Verifier(model, eps).verify(x, label)
    assert verdict.status is Status.UNKNOWN
    assert "out of licence" in verdict.reason


@pytest.mark.parametrize("bound", [np.inf, np.nan])
def test_a_bound_of_highs_that_is_no_number_proves_nothing(bound, monkeypatch):
    """An infinite one comes of an infeasible programme, and this one has the clean image."""
    case = exact_networks.Case(exact_networks.network("skip_behind_relu", "as drawn"))
    row, constant = case.restriction.margin(oracles.target_rows(0, 2)[1])
    question = Question(encode(case.restriction, case.x), row, constant + 1e3)
    assert Highs().decide(question, 20.0).outcome is Outcome.PROVEN
    told = types.SimpleNamespace(mip_dual_bound=bound, mip_node_count=1)
    monkeypatch.setattr("robustra_tf.exact.highs._Silent.getInfo", lambda self: told)
    answer = Highs().decide(question, 20.0)
    assert answer.outcome is Outcome.UNDECIDED
    assert answer.bound == -np.inf


@pytest.mark.parametrize("duals", [None, "noise"])
def test_a_lying_linear_solver_proves_nothing_wrong(duals, monkeypatch):
    """Statuses are not believed: bounds come from duals alone, and hold for any duals."""
    from robustra_tf.exact.highs import LinearProgrammes, Solved

    rng = np.random.default_rng(3)
    original = LinearProgrammes.solve

    def lie(self, lower, upper, seconds):
        solved = original(self, lower, upper, seconds)
        if duals is None or solved.duals is None:
            return Solved("Infeasible", None, None, None)
        return solved._replace(
            status="ObjectiveBound", duals=solved.duals + rng.normal(size=len(solved.duals))
        )

    monkeypatch.setattr(LinearProgrammes, "solve", lie)
    seen = set()
    for seed in range(12):
        drawn = Drawn("dense", seed + 40, 0.3)
        verdict = Verifier(drawn.model, drawn.eps, time_limit=2.0).verify(drawn.x, drawn.label)
        seen.add(drawn.exact > 0)
        if drawn.exact <= 0:
            assert verdict.status is not Status.VERIFIED
    assert seen == {False, True}


def test_the_next_relu_is_the_one_whose_triangle_costs_most():
    """The dual of its row times what is left of the row where `h` is `max(z, 0)`: by the rows."""
    case = exact_networks.Case(exact_networks.network("unequal_depth", "as drawn"))
    rng = np.random.default_rng(0)
    encoding = encode(case.restriction, case.x)
    search = _Search(
        Question(encoding, *case.restriction.margin(np.array([1.0, -1.0, 0.0]))), 1, None, np.inf
    )
    programme = encoding.relaxed
    count, rows = len(search.unstable), programme.matrix.toarray()
    for taken in (0, 1, count - 1):
        node = _Node(tuple(range(taken)), (True,) * taken)
        values, duals = rng.normal(size=rows.shape[1]), rng.normal(size=len(rows))
        scores = []
        for k in range(count):
            on, off, row = search.on[k], search.off[k], len(rows) - count + k
            z = values[on] - values[off]
            kept = values.copy()
            kept[on], kept[off] = max(z, 0.0), max(-z, 0.0)
            left = programme.row_upper[row] - rows[row] @ kept
            gap = min(values[on], values[off])
            scores.append(abs(duals[row]) * left + 1e-6 * gap if k >= taken else -np.inf)
        best = int(np.argmax(scores))
        on = values[search.on[best]] > values[search.off[best]]
        assert search._choose(node, Solved("Optimal", values, duals, None)) == (best, on)
        for solved in ((values, None), (None, duals), (None, None)):
            assert search._choose(node, Solved("Unknown", *solved, None)) == (taken, True)
    everything = _Node(tuple(range(count)), (True,) * count)
    assert search._choose(everything, Solved("Optimal", values, duals, None)) is None


def test_without_time_nobody_is_asked(monkeypatch):
    """Not for no seconds, and not at the deadline itself."""
    monkeypatch.setattr(searches.time, "monotonic", lambda: 5.0)
    case = types.SimpleNamespace(deadline=6.0)
    stub = types.SimpleNamespace(case=case, _question=lambda *_: types.SimpleNamespace(start=None))
    first = searches.Searches._first(stub, 0, None, 1, 0.0)
    assert (first.outcome, first.reason) == (Outcome.UNDECIDED, "node limit")
    asked = searches.Searches._asked(stub, None, None, 0.0)
    assert (asked.outcome, asked.reason) == (Outcome.UNDECIDED, "time limit")
    case.deadline = 5.0
    for found in (
        searches.Searches._first(stub, 0, None, 1, 9.0),
        searches.Searches._asked(stub, None, None, 9.0),
    ):
        assert (found.outcome, found.reason) == (Outcome.UNDECIDED, "time limit")


@pytest.mark.parametrize(
    ("bound", "margin", "outcome"),
    [
        (1e-3, 1.0, Outcome.PROVEN),
        (1.05e-4, 1.0, Outcome.UNDECIDED),  # above the tolerance by less than solvers may be off
        (np.inf, 1.0, Outcome.UNDECIDED),
        (-1.0, 1e-300, Outcome.UNDECIDED),
        (-1.0, 0.0, Outcome.FOUND),  # a tie is no margin
        (-1.0, -1.0, Outcome.FOUND),
    ],
)
def test_of_a_mixed_integer_solver_bound_and_point_are_judged(bound, margin, outcome):
    question = types.SimpleNamespace(tolerance=1e-4, margin=lambda point: margin)
    found = judge(question, bound, np.zeros(2), 5, 1, "why")
    assert (found.outcome, found.nodes, found.solves) == (outcome, 5, 1)
    assert found.bound < bound or not np.isfinite(bound)
    assert (found.reason == "why") == (outcome is Outcome.UNDECIDED)


def test_radius_zero_is_the_clean_answer():
    model = MODELS["dense"]
    for x in nets.images(model, 10, seed=4):
        label = int(model(x[None]).numpy().argmax())
        verifier = Verifier(model, 0.0)
        assert verifier.verify(x, label).status is Status.VERIFIED
        other = (label + 1) % nets.CLASSES
        verdict = verifier.verify(x, other)
        assert verdict.status is Status.FALSIFIED
        assert verdict.target == label
        np.testing.assert_array_equal(verdict.witness, x)


def test_a_misclassified_image_is_its_own_witness():
    model = MODELS["conv"]
    x = nets.images(model, 1, seed=4)[0]
    label = int(model(x[None]).numpy().argmax())
    verdict = Verifier(model, 0.1).verify(x, (label + 1) % nets.CLASSES)
    assert verdict.status is Status.FALSIFIED
    np.testing.assert_array_equal(verdict.witness, x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": -1.0}, "eps must be one finite number of pixels >= 0, got -1.0"),
        ({"eps": np.nan}, "eps must be one finite number"),
        ({"norm": "l2"}, "norm must be one of linf, l1, got 'l2'"),
        ({"box": (1.0, 0.0)}, "box must be .lo, hi., two numbers with lo < hi"),
        ({"time_limit": -1.0}, "time_limit must be at least 0 seconds"),
        ({"memory_mb": 0}, "memory_mb must be above 0, got 0"),
        (
            {"solver": "cplex"},
            "solver must be one of auto, batched, branch, split, highs, gurobi, got 'cplex'",
        ),
        ({"threads": 0}, "threads must be at least 1"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        Verifier(**({"model": MODELS["dense"], "eps": 0.1} | change))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.full(5, 1.5), 0, "x must lie in the box"),
        (np.full(5, -0.1), 0, "x must lie in the box"),
        (np.full(5, np.nan), 0, "x must be finite"),
        (np.zeros((1, 5)), 0, r"x must be one image of shape \(5,\), got \(1, 5\)"),
        (np.zeros(5), 3, "y must be a class from 0 to 2, got 3"),
        (np.zeros(5), 0.5, "y must be a class from 0 to 2, got 0.5"),
    ],
)
def test_bad_images_are_named(x, y, message):
    with pytest.raises(ValueError, match=message):
        Verifier(MODELS["dense"], 0.1).verify(x, y)


def test_gurobi_is_missing_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "gurobipy", None)
    with pytest.raises(ImportError, match="expected the package gurobipy"):
        Verifier(MODELS["dense"], 0.1, solver="gurobi")


def test_the_facade_knows_it():
    assert rt.Verifier is Verifier


def test_the_clock_is_kept(hard):
    model, x, label, eps, _ = hard
    start = time.monotonic()
    verdict = Verifier(model, eps).verify(x, label)
    assert 0 < verdict.seconds <= time.monotonic() - start


def _infeasible(search):
    """Phases that no point of the ball has, with what HiGHS says of them."""
    for on in itertools.product([True, False], repeat=len(search.unstable)):
        node = _Node(tuple(range(len(on))), on)
        ends = search._columns(node)
        solved = search.session.solve(*ends, 10.0)
        if solved.ray is not None:
            return node, ends, solved
    raise AssertionError("all phases have points")


@pytest.mark.parametrize("kept", [False, True])
def test_a_ray_says_the_same_whatever_its_length(kept):
    """That a domain has no point, by duals that only their ratio counts of; or nothing."""
    case = exact_networks.Case(exact_networks.network("unequal_depth", "as drawn"))
    row, constant = case.restriction.margin(np.array([1.0, -1.0, 0.0]))
    region = Region(case.low, case.high, case.x, exact_networks.EPS, "linf")
    named = Named(np.arange(case.restriction.units), np.ones(case.restriction.units))
    margins = Margins(row[None], np.array([constant]), np.ones(1))
    keeper = Keeper(Duals(case.restriction, region), named, margins) if kept else None
    question = Question(encode(case.restriction, case.x), row, constant, keeper=keeper)
    search = _Search(question, 1, None, np.inf)
    node, ends, solved = _infeasible(search)
    assert solved.status == "Infeasible"
    noise = np.random.default_rng(0).normal(size=(20, len(solved.ray)))
    whole = search._columns(_Node())
    for size in (1e-12, 1.0, 1e12):
        of_it = Solved("Infeasible", None, None, size * solved.ray)
        assert search._certify(node, of_it, *ends) == np.inf
        for ray in noise:
            nothing = Solved("Infeasible", None, None, size * ray)
            assert search._certify(_Node(), nothing, *whole) == -np.inf
