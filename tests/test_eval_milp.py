"""The stage that decides examples exactly: settings, figures, workers, resuming."""

import dataclasses

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint
from scipy.optimize import milp as scipy_milp

from eval import (
    cluster_tasks,
    config,
    inputs,
    milp,
    results,
    run,
    shared,
    stages,
    subject,
    workers,
)
from eval.cascade import Examples
from eval.ledger import Ledger, LedgerError
from eval.rows import Row, Status
from robustra_tf import data
from robustra_tf.cli.settings import SettingError
from tests import evaluations
from tests.oracle_nets import of_model

pytestmark = pytest.mark.usefixtures("without_pages")
ALL = ["clean", "pgd", "lp", "milp"]
# So large that the stages before leave something to decide.
EPS = 0.06


@pytest.fixture(scope="module")
def network():
    return evaluations.digits_network()


@pytest.fixture(scope="module")
def saved(network, tmp_path_factory):
    return evaluations.save(network, tmp_path_factory.mktemp("model") / "f")


def evaluate(saved, out, **given):
    options = {"stages": ALL, "attack_steps": 3, "attack_restarts": 1, "eps": EPS, "lp_box": True}
    return evaluations.evaluate(saved, out, **(options | given))


@pytest.fixture(scope="module")
def finished(saved, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    return evaluate(saved, out), out


def test_figures_add_up(finished):
    figures, out = finished
    rows = evaluations.rows(out)
    n = evaluations.COUNT
    count = lambda *wanted: sum(row["status"] in wanted for row in rows)  # noqa: E731
    reached = [row for row in rows if row["stage"] == "milp"]
    assert {row["status"] for row in reached} == {"verified", "falsified"}
    assert figures["milp_error_lower"] == count("misclassified", "falsified") / n
    assert figures["milp_error_upper"] == (n - count("verified")) / n
    assert figures["undecided"] == 0
    assert figures["milp_error_lower"] == figures["milp_error_upper"]
    assert figures["pgd_error"] < figures["milp_error_lower"] < figures["lp_error"]
    assert figures["seconds"]["milp"] > 0
    table = results.table(figures)
    assert "MILP error, found" in table
    assert "MILP error, not excluded" in table


def test_the_stages_before_have_the_errors_that_they_have_without_it(finished, saved, tmp_path):
    without = evaluate(saved, tmp_path / "out", stages=["clean", "pgd", "lp"])
    assert "milp_error_upper" not in without
    for name in ("clean_error", "pgd_error", "lp_error"):
        assert finished[0][name] == without[name]


def least_margin(net, x, label):
    """The exact least margin of a network with one hidden layer, by SciPy's mixed integers.

    Columns: pixels, activations `h`, binaries; `z <= h <= z - l (1 - a)`, `h <= u a`, all dense.
    """
    # The first affine node flattens the image, row-major as `x` is.
    (first, bias), (last, last_bias) = [node[2:] for node in net.nodes if node[0] == "affine"][1:]
    low, high = np.maximum(x - EPS, 0), np.minimum(x + EPS, 1)
    lower = np.minimum(first * low, first * high).sum(1) + bias
    upper = np.maximum(first * low, first * high).sum(1) + bias
    lower, upper = np.minimum(lower, 0), np.maximum(upper, 0)
    one, nothing = np.eye(len(bias)), np.zeros((len(bias), len(bias)))
    rows = [
        LinearConstraint(np.hstack([-first, one, nothing]), bias, np.inf),
        LinearConstraint(np.hstack([-first, one, np.diag(-lower)]), -np.inf, bias - lower),
        LinearConstraint(np.hstack([0 * first, one, np.diag(-upper)]), -np.inf, 0),
    ]
    ends = Bounds(np.r_[low, 0 * bias, 0 * bias], np.r_[high, upper, 0 * bias + 1])
    whole = np.r_[0 * x, 0 * bias, 0 * bias + 1]
    best = np.inf
    for target in range(len(last_bias)):
        if target != label:
            cost = np.r_[0 * x, last[label] - last[target], 0 * bias]
            solved = scipy_milp(cost, integrality=whole, bounds=ends, constraints=rows)
            assert solved.status == 0
            best = min(best, solved.fun + last_bias[label] - last_bias[target])
    return best


def test_verdicts_are_the_exact_ones(finished, network):
    _, out = finished
    images, labels = data.load("digits", "test", evaluations.COUNT)
    net, seen, searched = of_model(network), set(), False
    for row in evaluations.rows(out):
        # Some of each, and every one that could have been counted wrongly.
        if row["stage"] != "milp" or (row["status"] == "verified" and len(seen) > 3):
            continue
        index = int(row["index"])
        exact = least_margin(net, images[index].astype(np.float64).ravel(), int(labels[index]))
        seen.add((row["status"], index))
        assert abs(exact) > 2e-4
        assert row["status"] == ("verified" if exact > 0 else "falsified")
        if row["margin_lower"]:
            assert float(row["margin_lower"]) <= exact + 1e-6
        assert set(row["search"].split()) <= {"branch", "batched"}
        searched |= bool(row["search"])
    assert searched
    assert {status for status, _ in seen} == {"verified", "falsified"}


# Two more processes import TensorFlow: some ten seconds.
@pytest.mark.slow
def test_two_workers_give_the_same_ledger(finished, saved, tmp_path):
    # Of one search: which one `auto` takes, and so the bound that is proven, follows from times.
    figures = evaluate(saved, tmp_path / "two", workers=2, solver="branch")
    evaluate(saved, tmp_path / "one", solver="branch")
    expected = evaluations.without_seconds(tmp_path / "one")
    assert evaluations.without_seconds(tmp_path / "two") == expected
    assert figures["milp_error_upper"] == finished[0]["milp_error_upper"]


def test_workers_are_not_part_of_what_a_ledger_is_bound_to(saved, tmp_path):
    def prepared(**given):
        options = {"stages": ["clean", "milp"], "eps": EPS, "resume": True} | given
        ready = run.prepare(evaluations.resolve(saved, tmp_path / "out", **options))
        ready.ledger.close()
        return ready

    prepared()
    prepared(workers=3)
    for change, message in (
        ({"time_limit": 7.0}, "time_limit was 120.0, is 7.0"),
        ({"solver": "highs"}, "solver was 'auto', is 'highs'"),
    ):
        with pytest.raises(LedgerError, match=message):
            prepared(**change)


def test_no_time_leaves_examples_undecided(finished, saved, tmp_path):
    figures = evaluate(saved, tmp_path / "out", time_limit=0.0)
    reached = sum(row["stage"] == "milp" for row in evaluations.rows(finished[1]))
    assert figures["undecided"] == reached
    assert figures["milp_error_lower"] == figures["pgd_error"]
    assert figures["milp_error_upper"] == figures["lp_error"]


def stage(saved, tmp_path, **given):
    options = {"stages": ["clean", "milp"], "eps": EPS} | given
    settings = evaluations.resolve(saved, tmp_path / "out", **options)
    return settings, inputs.load_network(settings)


def batches():
    """Two images, one example a batch; the second is no image at all."""
    images, labels = data.load("digits", "test", 2)
    images = images.copy()
    images[1] = np.nan
    for i in range(2):
        at = slice(i, i + 1)
        yield Examples(np.arange(2)[at], images[at], labels[at])


class Pool:
    """Workers in this process, which are what a pool's are told to be."""

    def __init__(self, becomes=lambda batch: None):
        self.becomes, self.asked = becomes, []

    def share_out(self, jobs, orders, work, arguments):
        function, given = orders.begin
        function(*given)
        for job in jobs:
            self.asked.append(job.indices.tolist())
            yield job, self.becomes(job) or cluster_tasks.outcome(work, arguments(job))


def shared_out(saved, tmp_path, pool, **given):
    settings, model = stage(saved, tmp_path, **given)
    return shared.out(stages.make(settings, model), pool, settings, model)


def test_a_worker_that_raises_is_told(saved, tmp_path):
    decided = shared_out(saved, tmp_path, Pool())[-1].run(batches())
    told = "milp: example 1: ValueError: x must be finite, got NaN or infinity"
    with pytest.raises(workers.StageError, match=told):
        list(decided)


def test_a_worker_that_dies_is_told(saved, tmp_path):
    pool = Pool(lambda batch: workers.Result(None, workers.StageError, "its worker died"))
    with pytest.raises(workers.StageError, match="milp: example 0: its worker died"):
        list(shared_out(saved, tmp_path, pool)[-1].run(batches()))


def test_what_workers_are_lost_on_is_taken_apart_and_left_unknown(saved, tmp_path):
    lost = workers.Result(None, workers.LostError, "its workers died,\none after the other")
    pool = Pool(lambda batch: lost if 5 in batch.indices else None)
    options = {"stages": ["clean", "ibp"], "eps": 0.001, "cluster": "local:2"}
    images, labels = data.load("digits", "test", 12)
    examples = Examples(np.arange(12), images, labels)
    made = shared_out(saved, tmp_path, pool, **options)
    assert [type(one) for one in made] == [stages.Clean, shared.Shared]
    made[1].batch_size = 4
    parts = (examples.take(np.arange(at, at + 4)) for at in (0, 4, 8))
    found = list(made[1].run(parts))
    assert pool.asked == [[*range(4)], [*range(4, 8)], [*range(8, 12)], [4], [5], [6], [7]]
    kept = Ledger(tmp_path, {}, False)
    for i, label in enumerate(labels.tolist()):
        kept.rows[i] = Row(i, label, label, Status.UNKNOWN, "clean", None, None, 0.0)
    rows = {row.index: row for decided in found for row in decided.rows("ibp", kept)}
    assert sorted(rows) == [*range(12)]
    assert rows[5].status is Status.UNKNOWN
    assert rows[5].cells()[-1] == "its workers died, one after the other"
    # The others are what they are in one process.
    (plain,) = [one for one in stages.make(*stage(saved, tmp_path, **options)) if one.name == "ibp"]
    for decided in plain.run([examples]):
        for row in decided.rows("ibp", kept):
            if row.index != 5:
                assert rows[row.index].status is row.status
                assert rows[row.index].margin_lower == pytest.approx(row.margin_lower, rel=1e-5)


def test_which_stages_a_pool_takes(saved, tmp_path):
    every = {"stages": [*config.STAGES], "eps": EPS}
    made = shared_out(saved, tmp_path, Pool(), **every)
    assert [one.name for one in made if isinstance(one, shared.Shared)] == ["milp"]
    made = shared_out(saved, tmp_path, Pool(), cluster="local:2", **every)
    assert [one.name for one in made if not isinstance(one, shared.Shared)] == ["clean"]
    assert [one.name for one in made] == [*config.STAGES]
    made = shared_out(saved, tmp_path, None, **every)
    assert not any(isinstance(one, shared.Shared) for one in made)


def test_nothing_to_do_starts_no_worker(monkeypatch):
    monkeypatch.setattr(workers, "_Worker", None)
    nothing = workers.Processes(2).share_out(iter(()), workers.Orders(), print, tuple)
    assert list(nothing) == []


def test_a_network_that_changed_meanwhile_is_refused(saved, tmp_path):
    settings, _ = stage(saved, tmp_path)
    shared._begin(settings, shared.Packed.of(settings), "0" * 64)
    with pytest.raises(
        ValueError, match=r"the network's file has changed.*sha256 000000000000, go"
    ):
        shared._decide("milp", EPS, next(batches()))


def test_a_network_is_sent_as_it_lies(saved, tmp_path):
    copy = shared.Packed.of(subject.Source(saved_model=saved)).unpack(tmp_path)
    names = sorted(file.relative_to(saved) for file in saved.rglob("*") if file.is_file())
    assert names == sorted(file.relative_to(copy) for file in copy.rglob("*") if file.is_file())
    assert all((copy / name).read_bytes() == (saved / name).read_bytes() for name in names)
    (tmp_path / "a.keras").write_bytes(b"whole")
    home = tmp_path / "home"
    packed = shared.Packed.of(subject.Source(model_file=tmp_path / "a.keras"))
    assert packed.unpack(home).read_bytes() == b"whole"
    for name in ("f/a", "g/b", "checkpoints/c"):
        (tmp_path / "run" / name).parent.mkdir(parents=True)
        (tmp_path / "run" / name).touch()
    packed = shared.Packed.of(subject.PairSource(pair=tmp_path / "run"))
    assert [name for name, _ in packed.files] == ["f/a", "g/b"]


def test_falsified_examples_come_with_witnesses(finished, saved, tmp_path, network):
    _, out = finished
    images, labels = data.load("digits", "test", evaluations.COUNT)
    wanted = [
        int(row["index"])
        for row in evaluations.rows(out)
        if row["stage"] == "milp" and row["status"] == "falsified"
    ]
    ones = (Examples(np.array([i]), images[i : i + 1], labels[i : i + 1]) for i in wanted)
    for decided in milp.Milp(*stage(saved, tmp_path)).run(ones):
        index = decided.examples.indices[0]
        assert decided.status == [Status.FALSIFIED]
        distance = np.abs(decided.witnesses[0].astype(np.float64) - images[index]).max()
        assert distance <= EPS
        assert network(decided.witnesses).numpy().argmax() == decided.worst_target[0]
        assert decided.worst_target[0] != labels[index]


def test_errors_count_what_each_stage_decided():
    def row(index, status, stage):
        return Row(index, 0, 0, Status(status), stage, None, None, 0.0)

    rows = [
        row(0, "misclassified", "clean"),
        row(1, "falsified", "pgd"),
        row(2, "verified", "lp"),
        row(3, "verified", "milp"),
        row(4, "falsified", "milp"),
        row(5, "unknown", "milp"),
        *(row(i, "verified", "lp") for i in range(6, 10)),
    ]
    assert results.errors(ALL, rows) == {
        "clean_error": 0.1,
        "pgd_error": 0.2,
        "lp_error": 0.5,
        "milp_error_lower": 0.3,
        "milp_error_upper": 0.4,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time_limit": -1.0}, "--time_limit: expected at least 0 seconds, got -1.0"),
        ({"time_limit": float("nan")}, "--time_limit: expected at least 0 seconds"),
        (
            {"solver": "cplex"},
            "--solver: expected one of auto, batched, branch, highs, gurobi, got 'cplex'",
        ),
        ({"workers": 0}, "--workers: expected at least 1"),
        ({"norm": "l2"}, "--stages: expected no milp with --norm=l2"),
    ],
)
def test_settings_out_of_range_are_named(saved, tmp_path, change, message):
    with pytest.raises(SettingError, match=message) as raised:
        evaluations.resolve(saved, tmp_path / "out", stages=["milp"], **change)
    assert "\n" not in str(raised.value)


def test_gurobi_must_be_there(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(config.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        SettingError, match="--solver: expected auto, batched, branch or highs where"
    ):
        evaluations.resolve(saved, tmp_path / "out", solver="gurobi")


def test_stages_keep_their_order(saved, tmp_path):
    resolved = evaluations.resolve(saved, tmp_path / "out", stages=["milp", "pgd"])
    assert resolved.stages == ("clean", "pgd", "milp")
    assert (resolved.time_limit, resolved.solver, resolved.workers) == (120.0, "auto", 1)
    assert dataclasses.replace(resolved, workers=2).workers == 2
