"""The page of how far a run has come: what it says while others write, and to whom."""

import http.client
import json
import re

import numpy as np
import pytest

from eval import watch, watched
from eval.answered import Answered
from eval.ledger import Ledger
from eval.pair_rows import PairRow
from eval.rows import Row, Status
from robustra_tf import data
from robustra_tf.cli.stopping import Exit
from robustra_tf.storage import fingerprint
from robustra_tf.vnncomp.answers import Word
from tests import evaluations

STAGES = ["clean", "lp", "milp"]
IDENTITY = {"stages": STAGES, "dataset": "digits", "split": "test", "norm": "linf", "eps": 0.1}
IDENTITY |= {"first": 2, "limit": 9, "scale": None}


def row(index, status, stage, seconds=0.5, **more):
    return Row(index, 1, 1, Status(status), stage, None, None, seconds, **more)


@pytest.fixture
def going(tmp_path):
    """An evaluation of nine examples in its second stage, and its ledger."""
    images, labels = data.load("digits", "test", 11)
    digest = fingerprint.arrays_sha256([images[2:], labels[2:]])
    ledger = Ledger(tmp_path, IDENTITY | {"data_sha256": digest}, False)
    ledger.record([row(i, "unknown", "clean") for i in range(3, 11)], "clean", 1.0)
    ledger.record([row(2, "misclassified", "clean")], "clean", 1.0)
    why = "<script>alert(1)</script>"
    ledger.record([row(3, "verified", "lp"), row(4, "unknown", "lp", reason=why)], "lp", 90.0)
    yield tmp_path, ledger
    ledger.close()


def test_an_evaluation_under_way(going):
    folder, ledger = going
    now = [100.0]
    seen = watched.Watched(folder, lambda: now[0])
    (one,) = seen.look()
    assert (one.done, one.total, one.finished, one.seconds_left) == (2, 9, False, None)
    assert one.counts == {"misclassified": 1, "verified": 1, "unknown": 7}
    assert [stage[:3] for stage in one.stages] == [("clean", 1, 0), ("lp", 1, 6), ("milp", 0, 1)]
    # Two of seven things to look at have gone in ten seconds.
    now[0] += 10
    ledger.record([row(5, "verified", "lp"), row(6, "verified", "lp")], "lp", 1.0)
    (one,) = seen.look()
    assert (one.done, one.seconds_left) == (4, pytest.approx(5 * 10 / 2))
    assert one.hardest[0]["index"] == 4
    ledger.record([row(i, "verified", "milp") for i in (4, 7, 8, 9, 10)], "milp", 1.0)
    ledger.finish()
    (one,) = seen.look()
    assert (one.done, one.finished, one.seconds_left) == (9, True, None)


def test_the_first_stage_says_how_many_there_are(tmp_path):
    ledger = Ledger(tmp_path, IDENTITY | {"limit": None}, False)
    assert watched.Watched(tmp_path).look()[0].total is None
    ledger.record([row(i, "unknown", "clean") for i in range(4)], "clean", 1.0)
    assert watched.Watched(tmp_path).look()[0].total is None
    ledger.record([row(0, "verified", "lp")], "lp", 1.0)
    assert watched.Watched(tmp_path).look()[0].total == 4
    ledger.close()


def test_the_page_runs_nothing_and_shows_what_is_hard(going):
    folder, _ = going
    page = watch.Page(watch.Watch(folder=folder)).html()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "2</strong> of 9 examples done" in page
    assert 'http-equiv="refresh" content="5"' in page
    assert page.count('src="data:image/png') == 9
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert 'name="viewport"' in page


def test_images_that_are_others_are_not_shown(going):
    folder, ledger = going
    ledger._identity["data_sha256"] = "0" * 64
    ledger._write_about(finished=False)
    assert "data:image" not in watch.Page(watch.Watch(folder=folder)).html()


def test_ledgers_of_all_kinds_are_read(tmp_path):
    for name, identity, kind, one, words in (
        ("pair", {"stages": STAGES}, PairRow, PairRow(0, 1, 1, 1, 1, 1, 0.5, 0.2, 0.4), "unknown"),
        (
            "instances",
            {"instances": [["n", "p", 1.0]] * 3},
            Answered,
            Answered(0, "n.onnx", "p.vnnlib", 1.0, Word.TIMEOUT, 1.5, "late"),
            "p.vnnlib",
        ),
    ):
        (tmp_path / name).mkdir()
        ledger = Ledger(tmp_path / name, identity, False, kind)
        ledger.record([one], "verify", 1.0)
        ledger.close()
        assert words in watch.Page(watch.Watch(folder=tmp_path / name)).html()
    (both, last) = watched.Watched(tmp_path).look()
    assert (both.title, both.total, both.unit) == ("instances: instances", 3, "instances")
    assert last.stages[0] == ("clean", 0, 0, 0.0)


def test_training_has_curves_of_both_networks(tmp_path):
    evaluations.write_run(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"epochs": 4}))
    now = [0.0]
    seen = watched.Watched(tmp_path, lambda: now[0])
    (one,) = seen.look()
    assert (one.done, one.total, one.unit, one.finished) == (2, 4, "epochs", False)
    curves = {curve.name: curve.points for curve in one.curves}
    assert curves["f: robust error"] == [(1.0, pytest.approx(90)), (2.0, pytest.approx(70))]
    assert len(curves) == 8
    page = watch.Page(watch.Watch(folder=tmp_path)).html()
    assert page.count("<polyline") == 8
    (tmp_path / "config.json").write_text(json.dumps({"epochs": 2}))
    assert seen.look()[0].finished
    assert "refresh" not in watch.Page(watch.Watch(folder=tmp_path)).html()


def test_a_line_reaches_from_end_to_end():
    drawn = watch.drawing([watched.Curve("a", [(1.0, 0.0), (3.0, 8.0)])])
    assert drawn["lines"][0]["points"] == "50.0,220.0 630.0,10.0"
    assert (drawn["left"], drawn["right"], drawn["top"], drawn["middle"]) == ("1", "3", "8", "4")
    assert watch.drawing([]) is None
    assert watch.drawing([watched.Curve("a", [(1.0, 0.0)])])["lines"][0]["points"] == "50.0,220.0"


def test_what_cannot_be_read_is_said(tmp_path):
    page = watch.Page(watch.Watch(folder=tmp_path))
    assert "Nothing is here yet" in page.html()
    assert not page.finished()
    (tmp_path / "ledger.csv").write_text("what,is\nthis\n")
    assert "expected a ledger" in page.html()


def test_only_this_machine_is_answered_and_only_by_the_page(going):
    folder, _ = going
    page = watch.Page(watch.Watch(folder=folder))
    with watch.server(page, 0) as port:

        def ask(method, path, host=f"127.0.0.1:{port}"):
            there = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            there.request(method, path, headers={"Host": host})
            answer = there.getresponse()
            return answer.status, answer.read().decode(), answer.headers

        status, text, headers = ask("GET", "/")
        assert (status, text[:15]) == (200, "<!DOCTYPE html>")
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert ask("GET", "/", f"localhost:{port}")[0] == 200
        assert ask("GET", "/", "other.example:80")[0] == 403
        assert ask("GET", "/ledger.csv")[0] == 404
        assert ask("GET", "/../ledger.csv")[0] == 404
        assert ask("POST", "/")[0] == 501
        assert ask("DELETE", "/")[0] == 501


def test_the_page_becomes_a_file(going, tmp_path, capsys):
    folder, _ = going
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    out = tmp_path / "page.html"
    assert watch.main([str(folder), "--once", f"--out={out}"]) == Exit.DONE
    assert "http-equiv" not in out.read_text()
    assert capsys.readouterr().out == f"page in {out}\n"
    out.unlink()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_watching_ends_with_what_is_watched(going, tmp_path, monkeypatch, capsys):
    folder, ledger = going
    monkeypatch.setattr(watch.time, "sleep", lambda seconds: ledger.finish())
    assert watch.main([str(folder), f"--out={tmp_path / 'p.html'}"]) == Exit.DONE
    assert capsys.readouterr().out.startswith("http://127.0.0.1:")
    assert "finished." in (tmp_path / "p.html").read_text()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["nowhere"], "--DIR: expected an existing folder, got 'nowhere'"),
        ([".", "--once"], "--out: expected a file for the page with --once"),
        ([".", "--every=0"], "--every: expected at least 1"),
        ([".", "--out=no/such/file.html"], "--out: expected a file whose folder is there"),
    ],
)
def test_settings_that_cannot_be_meant_are_named(flags, words, capsys):
    with pytest.raises(SystemExit):
        watch.main(flags)
    assert words in capsys.readouterr().err


def test_images_are_found_by_their_place(going):
    """The fourth test image is no. 3 of the split, though the evaluation begins at no. 2."""
    folder, _ = going
    page = watch.Page(watch.Watch(folder=folder))
    (part,) = page._watched.look()
    images, _ = data.load("digits", "test", 4)
    np.testing.assert_array_equal(page._loaded(part.identity)[1], images[3])
