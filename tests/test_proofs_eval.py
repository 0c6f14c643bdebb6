"""Evaluations with proofs: every verdict has one that the checker accepts."""

import json

import numpy as np
import pytest

from eval import check, config, run
from eval.checker import files
from robustra_tf.cli.settings import SettingError
from tests.evaluations import COUNT, digits_network, evaluate, resolve, rows, save

pytestmark = pytest.mark.usefixtures("without_pages", "eager")
STAGES = ["clean", "pgd", "ibp", "lp", "crown", "milp"]
SETTINGS = {"stages": STAGES, "attack_steps": 5, "attack_restarts": 1, "solver": "branch"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(digits_network(), tmp_path_factory.mktemp("model") / "f")


@pytest.fixture(scope="module")
def finished(saved, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    return evaluate(saved, out, proofs=str(out / "proofs"), **SETTINGS), out


def test_every_verdict_has_a_proof_that_is_accepted(finished, capsys):
    _, out = finished
    found = rows(out)
    assert {row["stage"] for row in found if row["status"] == "verified"} >= {"lp"}
    assert {row["status"] for row in found} >= {"verified", "falsified", "misclassified"}
    for row in found:
        (one,) = files.check(out / "proofs" / f"{int(row['index']):07d}.npz").found
        expected = {"misclassified": "falsified", "unknown": "open"}
        assert one.verdict == expected.get(row["status"], row["status"])
    assert check.main([f"--run={out}", "--processes=1"]) == check.ACCEPTED
    told = capsys.readouterr().out
    false = sum(row["status"] in ("falsified", "misclassified") for row in found)
    assert f"counterexamples replayed: {false} in float64, {false} by" in told
    assert "(TensorFlow" in told


def test_results_say_how_large_proofs_are(finished):
    figures, out = finished
    folder, proven = out / "proofs", figures["proven"]
    decided = [row for row in rows(out) if row["status"] != "unknown"]
    assert sum(stage["files"] for stage in proven["stages"].values()) == len(decided)
    sizes = [(folder / f"{int(row['index']):07d}.npz").stat().st_size for row in decided]
    assert sum(stage["bytes"] for stage in proven["stages"].values()) == sum(sizes)
    assert figures["proofs"] == "proofs"
    assert proven["without"] == 0
    assert set(proven["seconds"]) <= set(STAGES)
    assert len(list(folder.glob("*.npz"))) == COUNT + 1


def test_figures_are_those_without_proofs(finished, saved, tmp_path):
    figures, _ = finished
    plain = evaluate(saved, tmp_path / "out", **SETTINGS)
    names = [name for name in plain if name.endswith(("error", "_lower", "_upper"))]
    assert {name: plain[name] for name in names} == {name: figures[name] for name in names}
    assert "proofs" not in plain


def test_a_run_that_is_gone_on_with_makes_no_proof_twice(finished, saved, tmp_path):
    class EndedError(Exception):
        pass

    out, proofs = tmp_path / "out", tmp_path / "proofs"
    evaluation = run.prepare(resolve(saved, out, proofs=str(proofs), **SETTINGS))
    record, count = evaluation.ledger.record, iter(range(3))

    def ended(*given):
        if next(count, None) is None:
            raise EndedError
        record(*given)

    evaluation.ledger.record = ended
    with pytest.raises(EndedError):
        run.evaluate(evaluation)
    before = {path: path.stat().st_mtime_ns for path in proofs.glob("*.npz")}
    assert before
    figures = evaluate(saved, out, proofs=str(proofs), resume=True, **SETTINGS)
    expected, there = finished
    assert figures["proven"]["stages"] == expected["proven"]["stages"]
    for path in proofs.glob("*.npz"):
        arrays, others = np.load(path), np.load(there / "proofs" / path.name)
        assert arrays.files == others.files
        assert all((arrays[name] == others[name]).all() for name in arrays.files)


def test_what_does_not_go_together_is_named(saved, tmp_path):
    for change, text in (
        ({"solver": "highs", "stages": ["milp"]}, "solver"),
        ({"proofs": str(tmp_path / "file")}, "proofs"),
    ):
        (tmp_path / "file").touch()
        given = {"proofs": str(tmp_path / "proofs"), **change}
        with pytest.raises(SettingError, match=text):
            resolve(saved, tmp_path / "out", **given)


def test_a_folder_of_other_proofs_is_refused(finished, saved, tmp_path):
    given = resolve(saved, tmp_path / "out", proofs=str(finished[1] / "proofs"), **SETTINGS)
    assert isinstance(given, config.Config)
    with pytest.raises(SettingError, match="a folder without proofs"):
        run.evaluate(run.prepare(given))


def test_the_header_names_the_position(finished):
    for path in sorted((finished[1] / "proofs").glob("0*.npz")):
        (example,) = json.loads(np.load(path)["header"].tobytes())["examples"]
        assert example["position"] == int(path.stem)
