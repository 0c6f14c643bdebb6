"""A real run of the program, whole, and the same run killed and resumed: the same bits."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from robustra_tf import data, export, models
from robustra_tf.training import checkpoint
from robustra_tf.training.history import COLUMNS, ESTIMATES
from train.workdir import Workdir

# A process imports TensorFlow; three runs trace the steps, bounds and signatures of both networks.
pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[1]
EPOCHS = 3
FLAGS = {
    "epochs": EPOCHS,
    "eps_warmup_epochs": 2,
    "eps_start": 0.01,
    "eps": 0.04,
    "batch_size": 16,
    "limit_train": 64,
    "limit_test": 20,
    "seed": 3,
    "deterministic": True,
}
SECONDS = 240


def _run(workdir: Path, **flags) -> str:
    """What the program prints, started as a user starts it."""
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "CUDA_VISIBLE_DEVICES": "-1"}
    # What a run covers is measured where others run in the tests' own process.
    environment.pop("COVERAGE_PROCESS_CONFIG", None)
    words = [f"--{name}={value}" for name, value in flags.items()]
    done = subprocess.run(
        [sys.executable, "-m", "train.main", f"--workdir={workdir}", *words],
        cwd=workdir.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _rows(folder: Workdir) -> list[dict[str, str]]:
    with folder.history.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def runs(nursery, tmp_path_factory):
    """The whole run and the one that was killed in its fourth pass: (folder, output) of each."""
    root = tmp_path_factory.mktemp("runs")
    whole, broken = Workdir(root / "whole"), Workdir(root / "broken")
    victim = nursery.run("train", "fatal", workdir=broken.root, **FLAGS)
    assert victim.wait() == -signal.SIGKILL, victim.said()
    assert len(_rows(broken)) == 4
    resumed = nursery.run("train", "uncertified", workdir=broken.root, resume=True, **FLAGS)
    assert resumed.wait() == 0, resumed.said()
    return {"whole": (whole, _run(whole.root, **FLAGS)), "broken": (broken, resumed.printed())}


def _scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Tag -> step -> value, of which there is one."""
    scalars = {}
    for path in sorted(folder.glob("events*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                number = float(tf.make_ndarray(value.tensor))
                assert event.step not in scalars.setdefault(value.tag, {})
                scalars[value.tag][event.step] = number
    return scalars


def test_a_run_leaves_all_its_files(runs):
    folder, _ = runs["whole"]
    found = {path.name for path in folder.root.iterdir()}
    assert found == {"config.json", "lock", "events", "checkpoints", "history.csv", "f", "g"}
    stored = json.loads(folder.config.read_text())
    assert (stored["eps"], stored["seed"], stored["deterministic"]) == (0.04, 3, True)


def test_the_history_of_a_run_is_complete(runs):
    rows = _rows(runs["whole"][0])
    expected = [(str(epoch), name) for epoch in range(1, EPOCHS + 1) for name in "fg"]
    assert [(row["epoch"], row["network"]) for row in rows] == expected
    assert tuple(rows[0]) == COLUMNS
    # No estimates, no inner bounds by intervals, and no training images held out.
    held_out = {f"validation_{name}_error" for name in ("clean", "lp", "interval")}
    unmeasured = {*ESTIMATES, "test_interval_error", *held_out}
    for row in rows:
        assert {name for name in COLUMNS if not row[name]} == unmeasured
        numbers = {name: float(row[name]) for name in COLUMNS if row[name] and name != "network"}
        assert all(np.isfinite(list(numbers.values())))
        # The reference can only help; the three kinds of reference space are all there are.
        assert numbers["robust_error"] <= numbers["wk_error"]
        kinds = numbers["infeasible"] + numbers["tight"] + numbers["loose"]
        assert kinds == pytest.approx(1, abs=1e-5)
        assert numbers["test_clean_error"] <= numbers["test_lp_error"] <= 1
    assert [float(row["eps"]) for row in rows[::2]] == pytest.approx([0.01, 0.04, 0.04])


def test_tensorboard_has_every_scalar_of_both_networks_each_epoch(runs):
    folder, _ = runs["whole"]
    tags = {
        "training/loss",
        "errors/train_robust",
        "errors/train_robust_wk",
        "errors/train_clean",
        "training/gradient_norm",
        "schedule/epsilon",
        "schedule/learning_rate",
        "speed/examples_per_second",
        "reference/t0",
        "reference/eta",
        "tightness/infeasible",
        "tightness/tight",
        "tightness/loose",
        "tightness/excluded",
        "errors/test_lp",
        "errors/test_clean",
    }
    for name in "fg":
        scalars = _scalars(folder.events(name))
        unstable = {tag for tag in scalars if tag.startswith("unstable/")}
        assert set(scalars) - unstable == tags
        assert len(unstable) == 3  # digits_small has three layers of ReLUs
        for values in scalars.values():
            assert sorted(values) == list(range(1, EPOCHS + 1))
        assert all(0 <= value <= 1 for tag in unstable for value in scalars[tag].values())


def test_the_bar_and_the_lines_of_a_run(runs):
    lines = runs["whole"][1].splitlines()
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert len(epochs) == 2 * EPOCHS
    (header,) = [line for line in lines if line.startswith("error rates")]
    assert header.split("  ")[-1].strip() == "left"
    for title in ("eps", "robust", "clean", "test LP", "test clean", "left"):
        assert title in header
    assert all(len(line) == len(header) <= 80 for line in epochs)
    assert all(line.count("%") == 4 for line in epochs)


def test_the_saved_networks_are_those_of_the_last_checkpoint(runs):
    folder, _ = runs["whole"]
    last = checkpoint.variables(checkpoint.found(folder.checkpoints)[0])
    images, _ = data.load("digits", "test", 4)
    outputs = []
    for name in "fg":
        loaded = export.load(folder.model(name))
        model = models.build("digits_small", seed=0)
        for index, variable in enumerate(model.variables):
            key = f"{name}/model/{index}/.ATTRIBUTES/VARIABLE_VALUE"
            variable.assign(last.get_tensor(key))
        outputs.append(loaded(images).numpy())
        np.testing.assert_allclose(outputs[-1], model(images).numpy(), rtol=1e-5, atol=1e-6)
    assert not np.allclose(*outputs)


def test_a_killed_run_goes_on_where_its_checkpoint_was(runs):
    lines = runs["broken"][1].splitlines()
    assert "resumed after epoch 1, pass 3, step 0" in lines
    passes = [line.split("  ")[0] for line in lines if line.startswith("epoch ")]
    # The pass that was not saved is done again, and no earlier one.
    assert passes == ["epoch 2/3 g", "epoch 3/3 f", "epoch 3/3 g"]


def test_a_resumed_run_ends_with_the_same_bits(runs):
    newest = [checkpoint.found(runs[name][0].checkpoints)[0] for name in runs]
    assert [path.name for path in newest] == ["000006-00000000"] * 2
    readers = [checkpoint.variables(path) for path in newest]
    shapes = [reader.get_variable_to_shape_map() for reader in readers]
    assert set(shapes[0]) == set(shapes[1])
    keys = sorted(key for key in shapes[0] if key.startswith(("f/", "g/")))
    # Eight weights a network, in the model and twice in Adam, with its step and learning rate.
    assert len(keys) == 2 * (3 * 8 + 2)
    for key in keys:
        left, right = (reader.get_tensor(key) for reader in readers)
        np.testing.assert_array_equal(left, right, err_msg=key)


def test_a_resumed_run_has_the_same_history_and_summaries(runs):
    (whole, _), (broken, _) = runs["whole"], runs["broken"]
    assert whole.history.read_text() == broken.history.read_text()
    for name in "fg":
        left, right = (_scalars(folder.events(name)) for folder in (whole, broken))
        left.pop("speed/examples_per_second")
        right.pop("speed/examples_per_second")
        assert left == right


def test_a_run_is_neither_overwritten_nor_resumed_with_other_settings(nursery, runs):
    folder, _ = runs["whole"]
    before = folder.history.read_text()
    wrong = nursery.run("train", "plain", workdir=folder.root, resume=True, eps=0.05)
    assert (wrong.wait(), wrong.said().count("\n")) == (2, 1)
    assert "--eps 0.04 there, 0.05 here" in wrong.said()
    again = nursery.run("train", "plain", workdir=folder.root, **FLAGS)
    assert (again.wait(), again.said().count("\n")) == (2, 1)
    assert "--resume" in again.said()
    assert folder.history.read_text() == before
