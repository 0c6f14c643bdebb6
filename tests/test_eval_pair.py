"""Evaluations of a pair: what is decided, kept, resumed, printed and drawn."""

import csv
import dataclasses
import json
import pickle

import numpy as np
import pytest
import tensorflow as tf

import robustra_tf as rt
from eval import config, coverage, merge, pair_results, pair_run, report, results, shared
from eval.cascade import Examples
from eval.ledger import LedgerError
from eval.pair_rows import NAMES, PairRow
from eval.rows import Status
from robustra_tf.cli.stopping import Stopped
from robustra_tf.pair import averaged
from robustra_tf.storage import fingerprint
from tests import evaluations

COUNT, EPS = 24, 0.03


@pytest.fixture(autouse=True, scope="module")
def eager():
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two networks as a training run leaves them."""
    root = tmp_path_factory.mktemp("run")
    for name, seed in (("f", 0), ("g", 1)):
        evaluations.save(evaluations.digits_network(seed), root / name)
    return root


def resolve(trained, out, **given):
    settings = {"pair": str(trained), "out": str(out), "limit": COUNT, "eps": EPS, "batch_size": 8}
    settings |= {"attack_steps": 8, "attack_restarts": 1, "time_limit": 20.0}
    return config.resolve(settings | given)


def evaluate(*args, **given):
    return pair_run.evaluate(pair_run.prepare(resolve(*args, **given)))


@pytest.fixture(scope="module")
def done(trained, tmp_path_factory):
    """A whole cascade: (directory, results)."""
    out = tmp_path_factory.mktemp("out")
    return out, evaluate(trained, out, stages=["clean", "pgd", "ibp", "lp", "milp"])


@pytest.fixture(scope="module")
def asked(trained):
    """The pair and its examples."""
    pair = rt.Pair(*(rt.export.load(trained / name) for name in ("f", "g")))
    return pair, *rt.data.load("digits", "test", limit=COUNT)


def table(out):
    with (out / "ledger.csv").open(newline="") as file:
        return [PairRow.parse(row) for row in list(csv.reader(file))[1:]]


def test_what_is_decided_is_what_the_library_says(done, asked):
    rows, (pair, x, y) = table(done[0]), asked
    lp = rt.certify(pair, x, y, EPS, box=None)
    ibp = rt.certify(pair, x, y, EPS, method="interval")
    average = rt.certify(averaged(pair), x, y, EPS, box=None)
    attack = {
        goal: rt.attack(pair, x, y, EPS, goal=goal, steps=8, restarts=1)
        for goal in ("silent", "abstention")
    }
    assert [row.pair for row in rows] == lp.predicted.tolist()
    for k, row in enumerate(rows):
        certified, answered = (lp.certified | ibp.certified)[k], (lp.answered | ibp.answered)[k]
        wrong = row.pair not in (row.label, -1)
        found = attack["silent"].success[k]
        assert (row.silent is Status.MISCLASSIFIED) == wrong
        if row.silent_by in ("ibp", "lp"):
            assert certified
            assert not found
        if certified:
            assert row.silent is Status.VERIFIED
        if found and not wrong:
            assert (row.silent, row.silent_by) == (Status.FALSIFIED, "pgd")
        assert (row.abstains is Status.VERIFIED) == answered
        moved = found or attack["abstention"].success[k] or row.pair != row.label
        assert (row.abstains is Status.FALSIFIED) == moved
        if row.abstains is not Status.VERIFIED:
            assert row.stage == "milp"
            assert row.pair_margin == pytest.approx(
                max(lp.worst_margin[k], ibp.worst_margin[k]), rel=1e-5
            )
            assert row.average_margin == pytest.approx(average.worst_margin[k], rel=1e-5)
    verifier = rt.Verifier(pair, EPS)
    for row in (row for row in rows if row.silent_by == "milp"):
        verdict = verifier.verify(x[row.index], row.label)
        assert verdict.status.value == row.silent.value
        assert row.search == verdict.search
    statuses = {row.silent for row in rows} | {row.abstains for row in rows}
    assert {Status.VERIFIED, Status.FALSIFIED} <= statuses


def test_the_figures_are_counts_of_the_rows(done):
    out, found = done
    rows = table(out)
    assert json.loads(json.dumps(found)) == json.loads((out / "results.json").read_text())
    for name in NAMES:
        shares = found["classifiers"][name]
        wrong = sum(getattr(row, name) not in (-1, row.label) for row in rows)
        assert shares["clean_error"] == wrong / COUNT
        allowed = {"pair": (-1,)}.get(name, ())
        proven = [
            row.margin(name) > 0 and getattr(row, name) in (row.label, *allowed) for row in rows
        ]
        assert shares["certified_error"] == pytest.approx(1 - sum(proven) / COUNT)
    pair, single = (found["classifiers"][name]["certified_error"] for name in ("pair", "f"))
    assert pair <= single
    assert found["silent_error_lower"] <= found["silent_error_upper"] <= pair
    assert found["abstention_lower"] <= found["abstention_upper"]


def test_parts_are_merged_into_the_evaluation_of_all(trained, tmp_path):
    """Rows, figures and page are those of one evaluation, but for times."""
    stages = {"stages": ["clean", "pgd", "ibp"], "attack_steps": 2}
    parts = [tmp_path / "a", tmp_path / "b"]
    whole = evaluate(trained, tmp_path / "whole", limit=16, **stages)
    evaluate(trained, parts[0], limit=9, **stages)
    evaluate(trained, parts[1], first=9, limit=7, **stages)
    merged = merge.merge(tmp_path / "merged", parts[::-1])

    def untimed(out):
        return [dataclasses.replace(row, seconds=0.0) for row in table(out)]

    assert untimed(tmp_path / "merged") == untimed(tmp_path / "whole")
    for name in ("classifiers", "decided", "undecided", "silent_error_upper", "n", "first"):
        assert merged[name] == whole[name]
    assert (
        pair_results.table(merged).splitlines()[:-1]
        == (pair_results.table(whole).splitlines()[:-1])
    )
    assert "averaged logits" in report.build(tmp_path / "merged").read_text()
    with pytest.raises(LedgerError, match=r"b: examples 9-15 are in .*merged too; parts must"):
        merge.merge(tmp_path / "again", [tmp_path / "merged", parts[1]])


def test_a_pair_and_a_network_are_not_merged(trained, tmp_path):
    """In whichever order: their rows are of two kinds."""
    evaluate(trained, tmp_path / "pair", limit=4, stages=["clean"])
    evaluations.evaluate(trained / "f", tmp_path / "one", limit=4, eps=EPS, stages=["clean"])
    places = [tmp_path / "pair", tmp_path / "one"]
    for order in (places, places[::-1]):
        with pytest.raises(LedgerError, match=r"ledger.csv, line 1: expected index,label"):
            merge.merge(tmp_path / "merged", order)
    assert not (tmp_path / "merged").exists()


def test_averaged_logits_are_those_of_one_model(asked):
    pair, x, _ = asked
    f, g = pair(x)
    np.testing.assert_allclose(averaged(pair)(x), 0.5 * (f + g), rtol=1e-5, atol=1e-6)


def test_the_page_shows_the_table_and_the_curves(done):
    out, found = done
    assert pair_results.is_of(out)
    page = report.build(out).read_text()
    for name in ("averaged logits", "Risk against coverage", "silent error, not excluded"):
        assert name in page
    for name in ("pair", "f", "average"):
        assert f"{100 * found['classifiers'][name]['certified_error']:.2f}%" in page
    assert (out / "figures" / "coverage.png").is_file()


def test_a_stopped_evaluation_goes_on_to_the_same_rows(trained, done, tmp_path, monkeypatch):
    evaluation = pair_run.prepare(
        resolve(trained, tmp_path / "out", stages=["clean", "pgd", "ibp", "lp", "milp"])
    )

    class Stop:
        left = 9

        def keeps(self, text):
            pass

        def nothing_to_lose(self, text):
            pass

        def check(self):
            self.left -= 1
            if not self.left:
                raise Stopped("now")

    with pytest.raises(Stopped):
        pair_run.evaluate(evaluation, Stop())
    with pytest.raises(ValueError, match="unfinished"):
        pair_run.prepare(resolve(trained, tmp_path / "out"))
    monkeypatch.setattr(report, "build", lambda out, **options: out)
    stages = ["clean", "pgd", "ibp", "lp", "milp"]
    evaluate(trained, tmp_path / "out", stages=stages, resume=True)
    without = {"seconds": 0.0, "search": ""}
    one, other = (
        [PairRow(**vars(row) | without) for row in table(out)]
        for out in (tmp_path / "out", done[0])
    )
    assert one == other
    with pytest.raises(ValueError, match="there are those of pair of features"):
        results.require_free(tmp_path / "out")


def test_a_worker_decides_as_the_program_does(trained, asked, tmp_path, monkeypatch):
    """What a process of its own is sent and does, within this one."""
    pair, x, y = asked
    monkeypatch.setattr(shared, "_worker", shared._Worker())
    settings = resolve(trained, tmp_path / "out", workers=2)
    begin = (settings, shared.Packed.of(settings), fingerprint.weights_sha256(pair))
    shared._begin(*pickle.loads(pickle.dumps(begin)))
    for k in range(4):
        expected = rt.Verifier(pair, EPS).verify(x[k], int(y[k]))
        found = shared._decide("milp", EPS, Examples(np.array([k]), x[k : k + 1], y[k : k + 1]))
        assert [status.value for status in found.status] == [expected.status.value]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"saved_model": "x"}, "expected one of .*--pair"),
        ({"eps_sweep": ["0.1"]}, "--eps_sweep: expected none with --pair"),
        ({"proofs": "p"}, "--proofs: expected none with --pair"),
        ({"attack_loss": "cross_entropy"}, "--attack_loss: expected none with --pair"),
        ({"pair": "nowhere"}, "--pair: "),
    ],
)
def test_settings_that_a_pair_has_not_are_named(trained, tmp_path, given, message):
    with pytest.raises((ValueError, OSError), match=message):
        resolve(trained, tmp_path / "out", **given)


ROW = PairRow(0, 1, 1, 1, 1, 1, 0.5, 0.25, 0.4)


def test_a_row_is_read_as_it_was_written():
    row = PairRow(**vars(ROW) | {"silent": Status.VERIFIED, "silent_by": "lp", "f_margin": -1.5})
    assert PairRow.parse(row.cells()) == row
    assert row.lead("pair") == 0.25
    assert row.margin("pair") == -np.inf
    other = PairRow(0, 1, -1, 1, 2, 1, 0.5, 0.25, 0.4)
    assert other.lead("pair") == -np.inf


@pytest.mark.parametrize(
    "change",
    [
        {"pair": 2},
        {"g": 2},
        {"label": 2, "silent": Status.VERIFIED},
        {"abstains": Status.VERIFIED},
        {"abstains": Status.VERIFIED, "silent": Status.VERIFIED, "f_margin": 1.0, "g_margin": 0.0},
        {"seconds": np.inf},
    ],
)
def test_a_row_that_claims_too_much_is_refused(change):
    with pytest.raises(ValueError, match="row: expected"):
        PairRow(**vars(ROW) | change)


def test_risk_and_coverage_by_counting(rng):
    lead, margin = rng.normal(size=(2, 40)).round(1)
    lead[:3], margin[3:5] = -np.inf, -np.inf
    found = coverage.curve(lead, margin)
    assert found.threshold[0] == 0
    for tau, answered, risk in zip(*found, strict=True):
        assert answered == pytest.approx((lead >= tau).mean())
        assert risk == pytest.approx((~(margin > -tau)).mean())
    assert coverage.risk(np.array([np.nan, 1.0]), 0.0) == 0.5
    for share in (0.0, 0.1, 0.5):
        tau = coverage.threshold_for(lead, share)
        assert tau == 0 or (lead < tau).mean() <= share
        above = lead[lead > tau]
        assert (lead < above.min()).mean() > share
