"""The motivation experiment: its loss and gradient, its attacks, and what a run leaves."""

import csv
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from eval import curves
from robustra_tf import data, export
from robustra_tf.attacks import Attack
from robustra_tf.cli import plots
from robustra_tf.graph import build
from tests import nets
from tests.test_train import read_scalars
from train.motivation import run
from train.motivation.settings import resolve
from train.motivation.step import PairStep, cosine, losses

pytestmark = pytest.mark.usefixtures("unoptimised")

PROJECT = Path(__file__).resolve().parents[1]
COUNT = 5
Y = tf.constant([0, 1, 2, 0, 1])


def pair():
    return nets.two_conv(2), nets.two_conv(12)


def problem(dtype=tf.float64):
    """Structures, weights and images of a pair."""
    graphs = [build(model) for model in pair()]
    x = tf.constant(nets.images(pair()[0], COUNT, seed=4), dtype)
    return [g.structure for g in graphs], [g.weights(dtype) for g in graphs], x


def test_cosine_is_that_of_numpy_at_any_scale_and_of_nothing_it_is_0(rng):
    a, b = rng.normal(size=(2, 6, 3, 4))
    a[3], b[4] = 0, 0
    flat = [v.reshape(6, -1) for v in (a, b)]
    with np.errstate(invalid="ignore"):
        sizes = [np.linalg.norm(v, axis=1) for v in flat]
        expected = (flat[0] * flat[1]).sum(1) / (sizes[0] * sizes[1])
    expected[3:5] = 0
    for scale in (1.0, 1e-25, 1e20):
        found = cosine(tf.constant(scale * a, tf.float32), tf.constant(b, tf.float32))
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_alignment_is_of_the_slopes_by_finite_differences():
    structures, weights, x = problem()
    found, logits, aligned = losses(structures, weights, x, Y)
    slopes = []
    for structure, own, loss, z in zip(structures, weights, found, logits, strict=True):
        rows = z.numpy() - np.log(np.exp(z.numpy()).sum(1, keepdims=True))
        np.testing.assert_allclose(loss, -rows[np.arange(COUNT), Y.numpy()], rtol=1e-10)

        def at(point, structure=structure, own=own):
            z = structure.forward(own, point)
            return tf.nn.sparse_softmax_cross_entropy_with_logits(Y, z).numpy()

        slope = np.zeros(x.shape)
        for place in np.ndindex(*x.shape[1:]):
            step = np.zeros(x.shape)
            step[(slice(None), *place)] = 1e-6
            slope[(slice(None), *place)] = (at(x + step) - at(x - step)) / 2e-6
        slopes.append(slope.reshape(COUNT, -1))
    norms = [np.linalg.norm(s, axis=1) for s in slopes]
    expected = np.abs((slopes[0] * slopes[1]).sum(1)) / (norms[0] * norms[1])
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(aligned, expected, rtol=1e-5)


def test_a_step_descends_the_loss_of_each_network():
    """f's by finite differences of `l_f + lambda |cos|`; g's has no cosine in it."""
    structures, weights, x = problem()
    rng = np.random.default_rng(0)
    ways = [[tf.constant(rng.normal(size=w.shape)) for w in own] for own in weights]
    rate, weight, step = 0.5, 0.7, 1e-6

    def objective(k, at):
        shifted = [list(own) for own in weights]
        shifted[k] = [w + at * way for w, way in zip(weights[k], ways[k], strict=True)]
        found, _, aligned = losses(structures, shifted, x, Y)
        return float(tf.reduce_mean(found[k]) + (weight * tf.reduce_mean(aligned) if k == 0 else 0))

    models = pair()
    before = [model.get_weights() for model in models]
    taken = PairStep(models, [keras.optimizers.SGD(rate) for _ in models], weight)
    metrics = taken(tf.cast(x, tf.float32), Y)
    for k, model in enumerate(models):
        expected = (objective(k, step) - objective(k, -step)) / (2 * step)
        moves = zip(before[k], model.get_weights(), ways[k], strict=True)
        slope = sum(float(np.sum((old - new) / rate * way)) for old, new, way in moves)
        assert slope == pytest.approx(expected, rel=2e-3)
    found, logits, aligned = losses(structures, weights, x, Y)
    assert float(metrics["cosine"]) == pytest.approx(float(tf.reduce_mean(aligned)), rel=1e-4)
    for k, name in enumerate("fg"):
        loss = float(tf.reduce_mean(found[k]))
        assert float(metrics[f"loss_{name}"]) == pytest.approx(loss, rel=1e-4)
        wrong = np.mean(np.argmax(logits[k], 1) != Y.numpy())
        assert float(metrics[f"clean_error_{name}"]) == pytest.approx(wrong)


def test_training_turns_the_gradients_apart():
    x = tf.constant(nets.images(pair()[0], COUNT, seed=4))
    ended = []
    for weight in (0.0, 3.0):
        models = pair()
        step = PairStep(models, [keras.optimizers.Adam(0.01) for _ in models], weight)
        metrics = [step(x, Y) for _ in range(40)]
        assert step.traces == 1
        assert float(metrics[-1]["loss_g"]) < float(metrics[0]["loss_g"])
        ended.append(float(metrics[-1]["cosine"]))
    assert ended[1] < 0.5 * ended[0]


def test_errors_are_of_the_attacks_own_network_and_of_the_other():
    models = pair()
    images = nets.images(models[0], 40, seed=7)
    labels = np.argmax(models[0](images), axis=1).astype(np.int32)
    test = data.Dataset(images, labels)
    attacks = [Attack(model, steps=10, restarts=1, early_stop=False) for model in models]
    found = run.attacked(attacks, models, test, 0.05, "linf")
    points = [attack(images, labels, 0.05).adversarial for attack in attacks]
    wrong = [[np.mean(np.argmax(model(p), axis=1) != labels) for model in models] for p in points]
    expected = (wrong[0][0], wrong[1][1], wrong[0][1], wrong[1][0])
    assert list(found) == list(plots.MOTIVATION[1:])
    np.testing.assert_allclose(list(found.values()), expected, atol=1e-7)
    assert len(set(expected)) > 2


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A small run by the command line, and what it printed."""
    folder = tmp_path_factory.mktemp("motivation") / "run"
    flags = "--epochs=2 --limit_train=400 --limit_test=40 --eps=0.05 --attack_steps=5 --seed=4"
    finished = _command(*flags.split(), f"--workdir={folder}", cwd=folder.parent)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return folder, finished.stdout


def _command(*flags: str, cwd: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-m", "train.motivation", *flags]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


# A process imports TensorFlow, trains and attacks, and traces two signatures.
@pytest.mark.slow
def test_a_run_leaves_curves_scalars_figure_and_both_networks(done):
    folder, output = done
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "events", "lock", run.CURVES, run.FIGURE, "f", "g"}
    stored = json.loads((folder / "config.json").read_text())
    assert (stored["alignment"], stored["eps"], stored["seed"]) == (0.1, 0.05, 4)
    assert stored == dataclasses.asdict(resolve(stored))
    rows = curves.read_motivation(folder / run.CURVES)  # as the report does
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert output.count("epoch ") == 2
    header, *lines = [line for line in output.splitlines() if line.startswith("e")]
    assert all(len(line) == len(header) <= 80 for line in lines)
    assert (folder / run.FIGURE).read_bytes().startswith(b"\x89PNG")
    scalars = {name: read_scalars(folder / "events" / name) for name in "fg"}
    for name, other in ("fg", "gf"):
        found = scalars[name]
        assert set(found) == {
            "training/loss",
            "errors/train_clean",
            "training/cosine",
            "errors/test_pgd",
            "errors/test_transfer",
        }
        columns = (f"pgd_error_{name}", f"transfer_error_{other}_to_{name}")
        for tag, column in zip(("errors/test_pgd", "errors/test_transfer"), columns, strict=True):
            expected = [(int(row["epoch"]), pytest.approx(float(row[column]))) for row in rows]
            assert found[tag] == expected
    # The last row is of the networks that were saved.
    images, labels = data.load("digits", "test", 40)
    saved = [export.load(folder / name) for name in "fg"]
    how = {"steps": 5, "restarts": 1, "early_stop": False, "seed": 4}
    again = run.attacked(
        [Attack(model, **how) for model in saved], saved, data.Dataset(images, labels), 0.05, "linf"
    )
    for name, value in again.items():
        assert value == pytest.approx(float(rows[-1][name]), abs=1 / 40 + 1e-6)


@pytest.mark.slow
def test_a_second_run_in_the_folder_is_refused(done):
    folder, _ = done
    again = _command(f"--workdir={folder}", cwd=folder.parent)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.startswith("train.motivation: --workdir: expected a folder without a run")
    assert again.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ("--alignment=-1", ["--alignment", "at least 0", "-1"]),
        ("--eps=2", ["--eps", "at most 1", "2"]),
        ("--norm=l7", ["--norm", "linf", "l7"]),
        ("--dataset=mnist --model=digits_small", ["--model", "mnist_small", "digits_small"]),
        ("--limit_test=0", ["--limit_test", "at least 1", "0"]),
        ("--attack_steps=0", ["--attack_steps", "at least 1", "0"]),
        ("--dataset=mnist --data_dir=nowhere", ["mnist", "nowhere", "--data_dir"]),
        ("--lambda=1", ["lambda"]),
    ],
)
def test_a_bad_flag_is_one_line_that_names_it(tmp_path, flags, parts):
    refused = _command(*flags.split(), cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.count("\n") == 1
    for part in parts:
        assert part in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_defaults_are_the_papers_lambda_and_the_presets():
    for dataset in data.NAMES:
        given = resolve({"dataset": dataset})
        assert given.alignment == 0.1
        assert given.limit_train == data.INFO[dataset].splits["train"]
    assert resolve({"dataset": "cifar10"}).optimizer == "sgd"
    with pytest.raises(TypeError, match="epsilon"):
        resolve({"epsilon": 0.1})


def test_the_curves_are_written_anew_after_every_epoch(tmp_path):
    rows = []
    for epoch in (1, 2):
        row = {"epoch": str(epoch)} | dict.fromkeys(plots.MOTIVATION[1:], f"0.{epoch}")
        rows.append(row)
        run._write(run.Workdir(tmp_path), rows)
        with (tmp_path / run.CURVES).open(newline="") as file:
            assert list(csv.DictReader(file)) == rows
