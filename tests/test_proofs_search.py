"""Proofs of complete verification: the checker derives what is written again, in fractions too."""

import dataclasses
import itertools
import json

import keras
import numpy as np
import pytest

import robustra_tf as rt
from eval.checker import files
from eval.checker.rejection import RejectedError
from robustra_tf.evidence import files as laid_out
from robustra_tf.evidence.flat import Flat
from robustra_tf.evidence.layers import Layers
from robustra_tf.evidence.region import Region
from robustra_tf.evidence.steps import INTERVAL, Leaf, RowSet, Slopes, UncoveredError, phase_tree
from robustra_tf.exact import Status, Verifier, batched, closing, searches
from robustra_tf.exact.leaves import Duals, Named
from robustra_tf.exact.matrices import affine_maps
from robustra_tf.graph import build
from tests import exact_networks, nets

pytestmark = pytest.mark.usefixtures("eager")


def header(path):
    return json.loads(np.load(path)["header"].tobytes())


def accept(path):
    """The verdict that both arithmetics of the checker accept."""
    verdicts = set()
    for exact in (False, True):
        (found,) = files.check(path, files.Options(exact=exact)).found
        verdicts.add(found.verdict)
    (verdict,) = verdicts
    return verdict


def drawn(seed):
    model = nets.dense(seed)
    return model, nets.images(model, 1, seed=seed)[0]


def proven(model, x, eps, path, **options):
    label = int(model(x[None]).numpy().argmax())
    verdict = Verifier(model, eps, **options).verify(x, label, proof=path)
    return verdict, header(path)["examples"][0] if path.exists() else None


def searched(tmp_path, seed, solver, nodes=1, eps=0.4):
    """A proof with trees: of the first of some networks that takes a search."""
    path = tmp_path / "proof.npz"
    for other in range(seed, seed + 20):
        model, x = drawn(other)
        for radius in (eps, 0.8 * eps, 0.6 * eps, 0.4 * eps):
            path.unlink(missing_ok=True)
            verdict, example = proven(model, x, radius, path, solver=solver)
            if verdict.status is Status.VERIFIED and example["trees"] and verdict.nodes > nodes:
                return path, verdict, example
    raise AssertionError("no network takes a search")


@pytest.mark.parametrize("solver", ["branch", "batched", "auto"])
@pytest.mark.parametrize("seed", [0, 20])
def test_trees_are_accepted_by_fractions(solver, seed, tmp_path):
    path, verdict, example = searched(tmp_path, seed, solver)
    assert accept(path) == example["verdict"] == "verified"
    assert verdict.proof == path.read_bytes()
    assert example["stage"] == verdict.search


@pytest.mark.parametrize("solver", ["branch", "auto"])
def test_bounds_of_their_own_are_accepted_by_fractions(solver, tmp_path, monkeypatch):
    """What is no short search rests on bounds by linear programmes, or on optimised slopes."""
    monkeypatch.setattr(searches, "_FIRST_NODES", 1)
    path, _, example = searched(tmp_path, 40, solver, nodes=3)
    steps = [step for tree in example["trees"] for step in tree["bounds"]]
    assert steps
    assert {step[1] for step in steps} == {"rows"}
    assert accept(path) == "verified"


def test_bounds_that_lean_on_margins_are_accepted_by_fractions(tmp_path, monkeypatch):
    """Of targets that take long, the costliest units are bounded where no margin is above 0."""
    monkeypatch.setattr(batched, "_LONG", 2)
    effort = closing._WRITTEN_EFFORT._replace(units=3, times=1)
    monkeypatch.setattr(closing, "_WRITTEN_EFFORT", effort)
    path, leaves, rejected = tmp_path / "proof.npz", [], []
    for seed, eps in ((35, 0.3), (37, 0.4), (71, 0.3)):
        model, x = drawn(seed)
        verdict, example = proven(model, x, eps, path, solver="batched")
        assert verdict.status is Status.VERIFIED
        arrays = dict(np.load(path))
        steps = [step for tree in example["trees"] for step in tree["bounds"]]
        names = [f"0/r{step[2]}/weight" for step in steps]
        leaning = [name for name in names if name in arrays]
        assert leaning
        assert accept(path) == "verified"
        alphas = [rows for name, rows in arrays.items() if "/t" in name and name.endswith("alpha")]
        leaves.append(max(map(len, alphas)))
        # Without the margins these rows prove less, and most often too little.
        np.savez_compressed(path, **arrays | {name: 0 * arrays[name] for name in leaning})
        try:
            files.check(path)
        except RejectedError as error:
            rejected.append(error.field)
    assert max(leaves) > 1
    assert set(rejected) == {"bound"}


@pytest.mark.parametrize("kind", exact_networks.KINDS)
def test_networks_that_are_hard_to_encode(kind, tmp_path):
    model = exact_networks.network(kind, "as drawn", seed=3)
    statuses = set()
    for eps in (0.05, 0.4):
        path = tmp_path / f"{eps}.npz"
        verdict, example = proven(model, exact_networks.IMAGE, eps, path, box=None, solver="branch")
        statuses.add(verdict.status)
        if example is not None:
            assert accept(path) == verdict.status.value
    assert statuses & {Status.VERIFIED, Status.FALSIFIED}


def test_counterexamples_are_points_of_the_set(tmp_path):
    path = tmp_path / "proof.npz"
    model, x = drawn(0)
    verdict, example = proven(model, x, 0.9, path)
    assert verdict.status is Status.FALSIFIED
    assert example["trees"] == example["bounds"] == []
    assert accept(path) == "falsified"


@pytest.mark.parametrize("solver", ["branch", "batched"])
def test_groups_of_several_conditions_weigh_their_margins(solver, tmp_path):
    """Two outputs are never both low: neither is so alone, and which one is takes a search."""
    path = tmp_path / "proof.npz"
    for seed, below in itertools.product(range(8), (0.2, 0.6, 1.0)):
        model, x = drawn(seed)
        output = rt.unreachable((np.eye(3)[:2], model(x[None]).numpy()[0, :2] - below))
        asked = rt.Property.around(x[None], 0.3, output)
        verdict = Verifier(model, solver=solver).verify(asked, proof=path)
        if verdict.status is Status.VERIFIED and header(path)["examples"][0]["trees"]:
            assert accept(path) == "verified"
            if (np.load(path)["0/t0/weight"] > 0).all(1).any():
                return
    raise AssertionError("no margins were weighed")


def test_nothing_is_written_of_what_is_unknown(tmp_path):
    model, x = drawn(0)
    verdict, example = proven(model, x, 0.4, tmp_path / "proof.npz", time_limit=0.0)
    assert verdict.status in (Status.TIMEOUT, Status.VERIFIED, Status.FALSIFIED)
    assert (example is None) == (verdict.status is Status.TIMEOUT) == (verdict.proof is None)


def test_searches_without_proofs_are_refused_by_name(tmp_path):
    model, x = drawn(0)
    with pytest.raises(ValueError, match="proof must be None with solver 'highs'"):
        proven(model, x, 0.1, tmp_path / "proof.npz", solver="highs")
    maxima = nets.ALL["maxima"]()
    with pytest.raises(ValueError, match="'split' of a network with maxima"):
        proven(maxima, nets.images(maxima, 1)[0], 0.1, tmp_path / "proof.npz", solver="split")


def test_where_no_file_can_be_is_said_before_anything_is_searched(tmp_path):
    model, x = drawn(0)
    with pytest.raises(ValueError, match="proof: expected a file in an existing directory"):
        proven(model, x, 0.1, tmp_path)


def leaf(phases):
    unit = np.array(sorted(phases))
    phase = np.array([phases[u] for u in unit])
    nothing = Slopes(np.zeros(0, int), np.zeros(0, np.float32))
    return Leaf(unit, phase, np.float32(unit), nothing, np.ones(1, np.float32))


def test_a_tree_is_found_from_its_leaves_in_any_order():
    leaves = [{3: 1}, {3: -1, 5: 1}, {3: -1, 5: -1, 1: 1}, {3: -1, 5: -1, 1: -1}]
    tree = phase_tree(0, (), [leaf(leaves[i]) for i in (2, 0, 3, 1)])
    assert tree.split.tolist() == [3, -1, 5, -1, 1, -1, -1]
    assert tree.beta.tolist() == [3, 3, 5, 3, 5, 1, 3, 5, 1]


@pytest.mark.parametrize(
    "leaves", [[{3: 1}], [{3: 1}, {3: 1}], [{3: 1}, {5: -1}], [{3: 1}, {3: -1}, {3: -1, 5: 1}]]
)
def test_leaves_that_do_not_cover_are_refused(leaves):
    with pytest.raises(UncoveredError):
        phase_tree(0, (), [leaf(each) for each in leaves])


def test_a_single_input_has_a_proof_too(tmp_path):
    model, x = drawn(3)
    path = tmp_path / "point.npz"
    verdict, example = proven(model, x, 0.0, path)
    assert verdict.status is Status.VERIFIED
    assert accept(path) == example["verdict"] == "verified"


def test_rows_that_lean_on_margins_are_written_for_every_step():
    """Others are written once. Of the first kind a checker takes no second mention."""
    rng = np.random.default_rng(0)
    place, end, unit = np.arange(2), np.ones(2), np.arange(3)
    alpha = rng.uniform(size=(2, 3)).astype(np.float32)
    plain = RowSet(place, end, unit, alpha)
    leaning = dataclasses.replace(plain, weight=np.ones((2, 1), np.float32))
    arrays: dict = {}
    rows = laid_out._Rows(arrays)
    first = rows.steps([(1, plain), (1, leaning), (1, leaning)])
    second = rows.steps([(1, leaning), (1, plain), (2, plain)])
    assert [number for *_, number in [*first, *second]] == [0, 1, 2, 3, 0, 4]
    assert {f"r{k}/weight" for k in (1, 2, 3)} == {name for name in arrays if "weight" in name}


def test_a_leaf_keeps_the_ratio_of_its_multipliers_whatever_their_size():
    """Phases' multipliers and weights have one factor in common, which float32 need not hold."""
    named = Named(np.arange(3), np.array([1.0, 2.0, 4.0]))
    phases, beta = np.array([1.0, 0.0, -1.0]), np.array([3.0, 0.0, 8.0])
    for size in (1e-60, 1.0, 1e60):
        found = named.leaf(phases, np.zeros(3), size * beta, size * np.array([5.0]))
        np.testing.assert_allclose(found.beta / found.weight, [3 / 5, 2 / 5], rtol=1e-6)
        assert 0.5 <= found.weight[0] < 1


def test_how_large_a_logit_may_be_is_told_by_its_interval():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "relu")])
    model.add(keras.layers.Dense(1))
    model.set_weights([np.eye(2, 3), np.zeros(3), np.full((3, 1), -5.0), np.array([1.0])])
    graph = build(model)
    flat = Flat.of(graph.structure, affine_maps(graph))
    low, high = np.zeros(2), np.array([1.0, 2.0])
    found = Layers(flat, Region(low, high, low, 0.0, "linf"))
    found.take((0, INTERVAL))
    assert found.largest == pytest.approx(14.0, rel=1e-9)


def test_a_bound_is_what_its_slopes_prove():
    """Of one hidden layer by its formula, for coefficients of every size."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(5, "relu")])
    model.add(keras.layers.Dense(2))
    case = exact_networks.Case(nets.randomise(model, 1))
    r, rng = case.restriction, np.random.default_rng(0)
    assert r.units > 2
    assert (r.relu & (r.lower < 0) & (r.upper > 0)).all()
    region = Region(case.low, case.high, case.x, exact_networks.EPS, "linf")
    duals, chord = Duals(r, region), r.upper / (r.upper - r.lower)
    for size in (0.01, 0.3, 1.0, 100.0):
        row, alpha = size * rng.normal(size=2 + r.units), rng.uniform(size=r.units)
        row[2] = abs(row[2])
        a = row[2:]
        found = duals.bound(row, 0.3, np.zeros(r.units), alpha * a)
        np.testing.assert_allclose(found.alpha, alpha, rtol=1e-6)
        slope = np.where(a > 0, found.alpha, chord)
        pixels, nu = row[:2] + (a * slope) @ r.weights.toarray()[:, :2], a * slope
        least = 0.3 + np.minimum(pixels * case.low, pixels * case.high).sum()
        least += nu @ r.offset - (np.minimum(a, 0) * chord * r.lower).sum()
        assert least - 1e-11 * max(size, 1) < found.bound < least
