"""A run that trains on estimates, over the l2 ball: what it writes and what it calls it."""

import csv

import numpy as np
import pytest

import robustra_tf as rt
from robustra_tf.training.history import ESTIMATES
from tests.test_train import read_scalars
from train import run, workdir

SETTINGS = {
    "dataset": "digits",
    "norm": "l2",
    "projection": 8,
    "eps": 0.05,
    "epochs": 2,
    "eps_warmup_epochs": 1,
    "limit_train": 100,
    "limit_test": 20,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The run's folder, the rows of its history, and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    config, place = workdir.open_run(SETTINGS | {"workdir": str(folder)}, resume=False)
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr("builtins.print", lambda *words, **_: lines.append(" ".join(words)))
        run.run(config, place)
    with place.history.open(newline="") as file:
        return place, list(csv.DictReader(file)), lines


def test_history_has_estimates_and_no_training_bounds(trained):
    _, rows, _ = trained
    assert [row["network"] for row in rows] == list("fgfg")
    assert {"robust_error_estimate", "wk_error_estimate", "tight_estimate"} <= set(ESTIMATES)
    for row in rows:
        assert np.isfinite(float(row["loss"]))
        for name in ESTIMATES:
            assert 0 <= float(row[name]) <= 1
            assert row[name.removesuffix("_estimate")] == ""
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


def test_tensorboard_and_the_log_say_estimate(trained):
    place, _, lines = trained
    tags = set(read_scalars(place.events("f")))
    assert {"errors/train_robust_estimate", "errors/train_robust_wk_estimate"} <= tags
    assert {"tightness/loose_estimate", "unstable_estimate/2", "reference/t0"} <= tags
    assert not {"errors/train_robust", "errors/train_robust_wk", "tightness/loose"} & tags
    assert "estimates by 8 projections" in lines[0]
    passes = [line for line in lines if line.startswith("epoch")]
    assert len(passes) == 4
    (header,) = [line for line in lines if line.startswith("error rates")]
    assert "robust est." in header


def test_test_errors_are_certified_by_exact_bounds(trained):
    place, rows, _ = trained
    model = rt.export.load(place.model("g"))
    test = rt.data.load("digits", "test", SETTINGS["limit_test"])
    found = rt.certify(model, *test, eps=SETTINGS["eps"], norm="l2", box=None)
    assert float(rows[-1]["test_lp_error"]) == pytest.approx(1 - found.certified.mean())
