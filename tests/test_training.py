"""Training as a library: runs without a program, in a folder or in none."""

from pathlib import Path

import keras
import numpy as np
import pytest

import robustra_tf as rt
from robustra_tf.training import methods
from robustra_tf.training.checkpoint import CheckpointError
from robustra_tf.training.history import COLUMNS, Row
from robustra_tf.training.pieces import PIECES
from robustra_tf.training.summaries import chart
from train.config import FIELDS

PLAN = rt.TrainingPlan.of(
    eps=0.05, epochs=2, eps_warmup_epochs=1, eps_start=0.01, lr=4e-3, clip_norm=1.0, seed=3
)


def network(seed):
    def start(k):
        return keras.initializers.RandomUniform(-0.2, 0.2, seed=seed + k)

    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(12, "relu", kernel_initializer=start(0)),
            keras.layers.Dense(8, "relu", kernel_initializer=start(1)),
            keras.layers.Dense(10, kernel_initializer=start(2)),
        ]
    )


@pytest.fixture(scope="module")
def digits():
    return rt.data.load("digits", "train", 100), rt.data.load("digits", "test", 20)


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    """A pair that was trained in a folder, with what the run has returned."""
    train, test = digits
    folder = tmp_path_factory.mktemp("runs") / "pair"
    pair = network(1), network(2)
    before = [model.get_weights() for model in pair]
    history = rt.train_pair(*pair, train, PLAN, test=test, workdir=folder)
    return folder, pair, before, history


def test_a_pair_learns_and_its_history_has_a_row_an_epoch_and_network(whole, digits):
    _, (f, g), before, history = whole
    assert [(row.epoch, row.network) for row in history.rows] == [
        (1, "f"),
        (1, "g"),
        (2, "f"),
        (2, "g"),
    ]
    for model, start in zip((f, g), before, strict=True):
        assert any((a != b).any() for a, b in zip(model.get_weights(), start, strict=True))
    assert history.series("eps", "g") == pytest.approx([0.01, 0.05])
    for name in ("loss", "robust_error", "eta", "unstable/1", "test_lp_error"):
        assert len(history.series(name)) == 2
    images, labels = digits[1]
    certificate = rt.certify(f, images, labels, PLAN.eps, box=None)
    assert history.series("test_lp_error")[-1] == pytest.approx(1 - certificate.certified.mean())


def test_a_run_in_no_folder_is_the_same(whole, digits):
    _, pair, _, history = whole
    again = network(1), network(2)
    found = rt.train_pair(*again, *digits[:1], PLAN)
    for one, other in zip(pair, again, strict=True):
        for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.series("loss"), history.series("loss"), rtol=1e-4)


def test_a_run_that_is_done_goes_on_from_its_end(whole, digits):
    """Other networks get the weights of the checkpoint; the rows are those of `history.csv`."""
    folder, pair, _, history = whole
    again = network(5), network(6)
    found = rt.train_pair(*again, digits[0], PLAN, workdir=folder)
    for one, other in zip(pair, again, strict=True):
        for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    kept = [{k: v for k, v in row.values.items() if k in COLUMNS} for row in history.rows]
    assert [row.values for row in found.rows] == [pytest.approx(values) for values in kept]
    assert (folder / "history.csv").read_text().count("\n") == 5


def test_a_folder_of_another_plan_is_refused(whole, digits):
    other = rt.TrainingPlan.of(**PLAN.settings() | {"lr": 5e-3})
    message = r"expected a checkpoint of \{'lr': 0.005\}, got one of \{'lr': 0.004\}"
    with pytest.raises(CheckpointError, match=message):
        rt.train_pair(network(1), network(2), digits[0], other, workdir=whole[0])


def test_one_network_is_trained_against_a_reference_that_stays(digits, capsys):
    model, reference = network(1), network(2)
    before = reference.get_weights()
    plan = rt.TrainingPlan(eps=0.05, epochs=1, optimizer="sgd", lr=0.01)
    history = rt.train(model, digits[0], plan, reference=reference, progress=True)
    assert [row.network for row in history.rows] == ["f"]
    for a, b in zip(before, reference.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert "epoch 1/1 f" in capsys.readouterr().out


def test_settings_are_sorted_by_their_names():
    plan = rt.TrainingPlan.of(eps=0.1, epochs=3, norm="l2", attack_steps=2, microbatch=7)
    assert (plan.options.bounds.norm, plan.options.losses.attack_steps) == ("l2", 2)
    assert plan.options.microbatch == 7
    assert plan.warmup_epochs == 1
    assert rt.TrainingPlan.of(**plan.settings()) == plan
    with pytest.raises(TypeError, match="nonsense"):
        rt.TrainingPlan.of(eps=0.1, epochs=3, nonsense=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "best"}, "method must be one of robustra, wong"),
        ({"ramp": "day"}, "ramp must be one of epoch, step, got 'day'"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"lr": 0.0}, "lr must be above 0, got 0.0"),
        ({"eps_start": 0.2}, "eps_start must be at least 0 and at most eps 0.1, got 0.2"),
        ({"eps_warmup_epochs": 4}, "eps_warmup_epochs must be .* at most epochs 3, got 4"),
        ({"schedule": "parallel"}, "devices must be those of each network"),
        ({"devices": ("CPU:0", "CPU:1")}, "devices must be a tuple of names for each network"),
        ({"devices": ((), ("CPU:0",))}, "devices must be a tuple of names for each network"),
        ({"devices": (("CPU:0", "CPU:0"),)}, "devices must be different ones, got"),
        (
            {"schedule": "parallel", "devices": (("CPU:0",), ("CPU:1", "CPU:0"))},
            "devices must be different ones for each network",
        ),
        (
            {"batch_size": 1, "devices": (("CPU:0", "CPU:1"),)},
            "devices must be at most batch_size 1 for a network",
        ),
        ({"share": 1.5}, "share must be at least 0 and at most 1, got 1.5"),
        ({"attack_steps": 0}, "attack_steps must be at least 1, got 0"),
        ({"clip_norm": 0.0}, "clip_norm must be above 0 or None, got 0.0"),
        ({"rows": "few"}, "rows must be one of every, needed, auto, got 'few'"),
        ({"budget": 0}, "budget must be above 0, in bytes, got 0"),
    ],
)
def test_a_setting_out_of_its_range_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        rt.TrainingPlan.of(**{"eps": 0.1, "epochs": 3} | settings)


def test_what_does_not_fit_the_method_is_named(digits):
    def train(method, **options):
        reference = options.pop("reference", None)
        plan = rt.TrainingPlan.of(eps=0.1, epochs=1, method=method, **options)
        rt.train(network(1), digits[0], plan, reference=reference)

    for arguments, message in (
        ({"method": "robustra"}, "reference must be a model for method 'robustra'"),
        ({"method": "wong", "reference": network(2)}, "reference must be None for method 'wong'"),
        ({"method": "ibp", "inner": "mixed"}, "inner must be one of dual for method 'ibp'"),
        ({"method": "wong", "norm": "l2", "attack_share": 0.5}, "attack_share must be 0 with norm"),
    ):
        with pytest.raises(ValueError, match=message):
            train(**arguments)


def test_the_table_of_methods_is_whole():
    """Each method has a loss, and what it certifies by is among what it measures."""
    from robustra_tf.objective.interval_losses import INTERVAL_LOSSES

    by_intervals = {m.name for m in methods.METHODS.values() if m.bound == "interval"}
    assert set(INTERVAL_LOSSES) == by_intervals
    for name, method in methods.METHODS.items():
        assert method.name == name
        assert method.certifies is None or method.certifies in method.measures
        assert set(method.measures) - {"unstable"} <= set(COLUMNS)


def test_methods_and_pieces_say_where_they_are_from_and_what_is_otherwise():
    """Every setting of a piece is one of a plan, or of the command; the page names them all."""
    page = (Path(__file__).resolve().parents[1] / "docs" / "training.md").read_text()
    for name, method in methods.METHODS.items():
        assert method.source
        assert f"`{name}`" in page
    known = rt.TrainingPlan.names() | {"init", "batch_norm"}
    for piece in PIECES:
        assert piece.text
        assert piece.source
        for setting in piece.settings:
            assert setting in known
            assert setting in FIELDS
            assert f"`--{setting}" in page, setting


def test_whatever_is_recorded_has_a_chart_of_its_own():
    measured = COLUMNS[4:]
    assert len({chart(name).tag for name in measured}) == len(measured)
    assert all(chart(name).text for name in measured)


def test_rows_are_read_as_they_were_written():
    row = Row(3, "g", {"eps": 0.1, "loss": 1.25, "test_lp_error": 1 / 3})
    read = Row.read(row.texts())
    assert (read.epoch, read.network) == (3, "g")
    assert read.values == pytest.approx(row.values)
