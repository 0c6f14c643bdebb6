"""Whole evaluations of a small network on the embedded digits."""

import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

from eval import cascade, inputs, results, run
from eval.ledger import Ledger
from robustra_tf import data, export
from robustra_tf.certificates.certify import certify
from robustra_tf.cli.settings import SettingError
from tests.evaluations import COUNT, RADIUS, digits_network, evaluate, resolve, rows, save

pytestmark = pytest.mark.usefixtures("without_pages")


@pytest.fixture(scope="module")
def network():
    return digits_network()


@pytest.fixture(scope="module")
def saved(network, tmp_path_factory):
    return save(network, tmp_path_factory.mktemp("model") / "f")


@pytest.fixture(scope="module")
def finished(saved, tmp_path_factory):
    """The figures and the directory of a finished evaluation."""
    out = tmp_path_factory.mktemp("finished")
    return evaluate(saved, out, stages=["clean", "pgd", "lp"], attack_steps=10), out


def test_figures_are_those_of_the_parts_run_by_themselves(finished, network):
    figures, out = finished
    images, labels = data.load("digits", "test", COUNT)
    wrong = network(images).numpy().argmax(axis=1) != labels
    certificate = certify(network, images, labels, RADIUS, box=None, dtype="float64")
    assert figures["clean_error"] == wrong.mean()
    # No margin of these images is so small that float32 and float64 could disagree.
    assert np.abs(certificate.worst_margin).min() > 1e-5
    assert figures["lp_error"] == (~certificate.certified).mean()
    assert figures["clean_error"] < figures["pgd_error"] < figures["lp_error"] < 1
    verified = [row["status"] == "verified" for row in rows(out)]
    np.testing.assert_array_equal(verified, certificate.certified)
    for row, margin, target in zip(
        rows(out), certificate.worst_margin, certificate.worst_target, strict=True
    ):
        assert row["predicted"] == str(network(images[[int(row["index"])]]).numpy().argmax())
        if row["stage"] == "lp":
            assert float(row["margin_lower"]) == pytest.approx(margin, abs=1e-5)
            assert int(row["worst_target"]) == target
        else:
            assert row["status"] in ("misclassified", "falsified")


def test_results_say_what_they_are_about(finished):
    figures, out = finished
    written = json.loads((out / "results.json").read_text())
    assert written == json.loads(json.dumps(figures))
    assert (written["schema"], written["model"], written["n"]) == (1, "features", COUNT)
    assert (written["dataset"], written["split"]) == ("digits", "test")
    assert (written["eps"], written["norm"]) == (RADIUS, "linf")
    assert set(written["seconds"]) == {"clean", "pgd", "lp"}
    assert {"python", "tensorflow", "keras", "numpy"} <= set(written["versions"])
    assert len(written["weights_sha256"]) == 64
    statuses = [row["status"] for row in rows(out)]
    assert written["undecided"] == statuses.count("unknown")
    stages = [row["stage"] for row in rows(out) if row["status"] != "unknown"]
    assert written["decided"] == {stage: stages.count(stage) for stage in ("clean", "pgd", "lp")}
    table = results.table(written)
    assert f"decided: clean {stages.count('clean')}, pgd" in table
    assert f"{round(written['lp_error'] * COUNT)} of {COUNT}" in table
    assert "milp_error_upper" not in written


def test_the_box_can_only_help_the_bound(finished, saved, tmp_path):
    figures = evaluate(saved, tmp_path / "out", lp_box=True)
    assert figures["lp_error"] <= finished[0]["lp_error"]
    assert "pgd_error" not in figures


@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.15), ("l1", 0.3)])
def test_other_norms_are_attacked_and_bounded(network, saved, tmp_path, norm, eps):
    stages = ["clean", "pgd", "lp", "crown", "alpha", *(["milp"] if norm == "l1" else [])]
    figures = evaluate(saved, tmp_path / "out", norm=norm, eps=eps, stages=stages, attack_steps=10)
    assert (figures["norm"], figures["eps"]) == (norm, eps)
    errors = [figures[f"{name}_error"] for name in ("clean", "pgd", "alpha", "crown", "lp")]
    assert errors == sorted(errors)
    assert errors[0] < errors[1] <= errors[2] <= errors[-1] < 1
    images, labels = data.load("digits", "test", COUNT)
    certificate = certify(network, images, labels, eps, norm=norm, box=None)
    assert figures["lp_error"] == (~certificate.certified).mean()
    if norm == "l1":
        assert figures["pgd_error"] <= figures["milp_error_upper"] <= figures["alpha_error"]


def test_a_projection_is_refused(tmp_path):
    """What is evaluated is certified by exact bounds or not at all."""
    command = [sys.executable, "-m", "eval.main", "--projection=50", f"--out={tmp_path / 'out'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "projection" in done.stderr


def test_bounds_decide_in_their_order_and_none_undoes_another(network, saved, tmp_path):
    """Each later stage has at most the errors of the one before; alone it has its own bound's."""
    order = ["ibp", "lp", "crown", "alpha", "milp"]
    figures = evaluate(saved, tmp_path / "all", stages=["clean", "pgd", *order], lp_box=True)
    errors = [figures[f"{name}_error"] for name in order[:-1]] + [figures["milp_error_upper"]]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] >= figures["milp_error_lower"] >= figures["pgd_error"]
    assert errors[0] > errors[1] > errors[-1], "the stages decided nothing"
    images, labels = data.load("digits", "test", COUNT)
    for stage, method in (("ibp", "interval"), ("crown", "crown"), ("alpha", "alpha")):
        alone = evaluate(saved, tmp_path / stage, stages=[stage])
        found = certify(network, images, labels, RADIUS, method=method)
        assert alone[f"{stage}_error"] == pytest.approx(1 - found.certified.mean())


def test_a_sound_evaluation_says_so_and_certifies_no_more(finished, network, saved, tmp_path):
    figures = evaluate(saved, tmp_path / "out", stages=["ibp", "lp"], sound=True)
    assert (figures["sound"], figures["dtype"]) == (True, "float64")
    assert finished[0]["sound"] is False
    images, labels = data.load("digits", "test", COUNT)
    found = certify(network, images, labels, RADIUS, method="interval", sound=True)
    assert figures["ibp_error"] == pytest.approx(1 - found.certified.mean())
    assert finished[0]["lp_error"] <= figures["lp_error"] < figures["ibp_error"]
    # At radius 0 too: the forward pass alone would say nothing of real numbers.
    figures = evaluate(saved, tmp_path / "zero", eps=0.0, stages=["lp"], sound=True)
    assert figures["lp_error"] == figures["clean_error"]


@pytest.mark.parametrize("stages", [["lp"], ["clean", "pgd", "lp"]])
def test_radius_zero_gives_the_clean_answer_exactly(saved, tmp_path, stages):
    figures = evaluate(saved, tmp_path / "out", eps=0.0, stages=stages, attack_steps=1)
    assert figures["lp_error"] == figures["clean_error"] > 0
    assert figures.get("pgd_error", figures["clean_error"]) == figures["clean_error"]
    assert figures["undecided"] == 0


def test_an_interrupted_evaluation_goes_on_to_the_same_ledger(finished, saved, tmp_path):
    class StopError(Exception):
        pass

    options = {"stages": ["clean", "pgd", "lp"], "attack_steps": 10}
    for stop_after in (1, 2, 3):
        evaluation = run.prepare(resolve(saved, tmp_path / "out", resume=True, **options))
        stages = run.stages.make(evaluation.config, evaluation.model)
        calls = iter(range(100))

        def watch(stage, added, total, left, calls=calls, stop_after=stop_after):
            if added and next(calls) == stop_after:
                raise StopError

        with pytest.raises(StopError):
            cascade.run(stages, evaluation.examples, evaluation.ledger, watch)
        evaluation.ledger.close()
    figures = evaluate(saved, tmp_path / "out", resume=True, **options)
    whole, out = finished
    for name in ("clean_error", "pgd_error", "lp_error", "undecided", "weights_sha256"):
        assert figures[name] == whole[name]
    expected, actual = rows(out), rows(tmp_path / "out")
    for row in expected + actual:
        row.pop("seconds")
    assert actual == expected


def test_the_ledger_of_other_weights_or_data_is_refused(saved, tmp_path):
    evaluate(saved, tmp_path / "out", stages=["clean"])
    settings = {"dataset": "digits", "eps": RADIUS}
    other = export.save(digits_network(seed=1), tmp_path / "g", settings, certifies=False)
    with pytest.raises(ValueError, match=r"another evaluation: weights_sha256 was '[0-9a-f]{64}'"):
        run.prepare(resolve(other, tmp_path / "out", stages=["clean"], resume=True))
    with pytest.raises(ValueError, match=r"data_sha256 was .*; limit was 60, is 59"):
        run.prepare(resolve(saved, tmp_path / "out", stages=["clean"], limit=59, resume=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[:0], y[:0]), "here: expected at least one example, got none"),
        (lambda x, y: (x, y[:-1]), "here: 3 images, but 2 labels"),
        (lambda x, y: (x[:, :7], y), r"here: images of shape \(7, 8, 1\), but 'features' takes"),
        (lambda x, y: (x * 255, y), r"here: image 0 has pixels outside \[0, 1\]"),
        (lambda x, y: (x - [[[[0]]], [[[0]]], [[[2]]]], y), r"here: image 2 has pixels outside"),
        (lambda x, y: (x * np.nan, y), r"here: image 0 has pixels outside \[0, 1\]"),
        (
            lambda x, y: (x, y + np.array([0, 8, 0])),
            "here: label 10 of image 1 is not a class from 0 to 9",
        ),
        (lambda x, y: (x, y - np.array([0, 0, 4])), "here: label -1 of image 2 is not a class"),
    ],
)
def test_examples_that_mean_nothing_are_refused(network, change, message):
    images = np.full((3, 8, 8, 1), 0.5, np.float32)
    examples = data.Dataset(*change(images, np.array([1, 2, 3])))
    with pytest.raises(ValueError, match=message):
        inputs.check_examples(examples, network, "here")


def test_weights_that_are_not_numbers_are_refused(tmp_path):
    model = digits_network()
    weights = model.get_weights()
    weights[2][3, 4] = np.nan
    model.set_weights(weights)
    settings = {"dataset": "digits", "eps": RADIUS}
    saved = export.save(model, tmp_path / "f", settings, certifies=False)
    with pytest.raises(ValueError, match=r"f: weight dense_?\d*/kernel holds values that are not"):
        run.prepare(resolve(saved, tmp_path / "out"))


def test_a_network_for_other_images_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((5,)), layers.Dense(10)])
    saved = export.save(model, tmp_path / "f", certifies=False)
    settings = resolve(saved, tmp_path / "out", dataset="digits", eps=0.1)
    with pytest.raises(ValueError, match=r"digits test: images of shape \(8, 8, 1\), but"):
        run.prepare(settings)


def test_results_are_replaced_only_if_it_is_meant_and_then_as_a_whole(finished, saved, tmp_path):
    out = shutil.copytree(finished[1], tmp_path / "out")
    (out / "sweep" / "eps_0.5").mkdir(parents=True)
    (out / "sweep.csv").write_text("eps\n")
    (out / "mine.txt").write_text("mine")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    there = r"features on 60 test examples of digits, linf radius 0\.04 in pixels, 20\d\d-"
    with pytest.raises(SettingError, match=f"--out: .*{there}.*--overwrite replaces them"):
        evaluate(saved, out, stages=["clean"])
    assert {path: path.read_bytes() for path in before} == before
    figures = evaluate(saved, out, stages=["clean"], overwrite=True)
    assert results.read(out) == json.loads(json.dumps(figures))
    assert "lp_error" not in figures
    left = {path.name for path in out.iterdir()}
    assert left >= {"mine.txt", "results.json", "ledger.csv"}
    assert not left & {"sweep", "sweep.csv", "witnesses.npz"}
    with pytest.raises(SettingError, match="--overwrite: expected one of --resume and"):
        resolve(saved, out, resume=True, overwrite=True)


def test_the_program_evaluates_a_saved_model_and_prints_a_table(nursery, saved, tmp_path, finished):
    flags = {"saved_model": saved, "limit": COUNT, "stages": "clean,lp", "out": tmp_path / "out"}
    life = nursery.run("eval", "plain", **flags)
    assert life.wait() == 0, life.said()
    figures = json.loads((tmp_path / "out" / "results.json").read_text())
    # The radius and the dataset are those that the model was saved with.
    assert (figures["dataset"], figures["eps"]) == ("digits", RADIUS)
    assert figures["lp_error"] == finished[0]["lp_error"]
    assert results.table(figures) in life.printed()
    assert f"verified={round((1 - figures['lp_error']) * COUNT)}" in life.told()
    assert Ledger(tmp_path / "out", _identity(tmp_path / "out"), resume=True).rows.keys() == set(
        range(COUNT)
    )


def _identity(directory):
    return json.loads((directory / "ledger.json").read_text())["identity"]
