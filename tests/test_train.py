"""The loop around the step, with steps that are known; and a small real run."""

import csv
import io
import itertools
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from robustra_tf import data, export
from robustra_tf.batches import TrainingBatches
from robustra_tf.training import schedules
from robustra_tf.training.history import COLUMNS, ESTIMATES, METRICS, TESTS, HistoryFile, Row
from robustra_tf.training.mutual import Course, Learner, Pass, alternate
from robustra_tf.training.plan import TrainingPlan
from robustra_tf.training.progress import Progress
from robustra_tf.training.summaries import Summaries
from robustra_tf.training.watch import Begun, Position, Watch
from train.run import run
from train.workdir import Workdir, open_run

PLAN = TrainingPlan(eps=0.3, epochs=4, eps_warmup_epochs=2, eps_start=0.1, lr=0.01)


def _network(name: str, step=None, units: int = 2) -> Learner:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(units)])
    optimizer = keras.optimizers.Adam(0.5)
    optimizer.build(model.trainable_variables)
    return Learner(name, model, optimizer, step)


def _batches() -> TrainingBatches:
    images = np.zeros((12, 1, 1, 1), np.float32)
    return TrainingBatches(data.Dataset(images, np.arange(12, dtype=np.int32)), 4, seed=0)


def _alternate(start: Position = Position(), watch: Watch | None = None):  # noqa: B008
    """What each call of a step was given: name, labels, radius, learning rate and seed."""
    calls, traces = [], []
    networks = []

    def make(position):
        @tf.function
        def traced(x, y, eps):
            traces.append(position)
            return {
                "loss": eps,
                "clean_error": tf.reduce_mean(tf.cast(y, tf.float32)) + 0 * x[0, 0, 0, 0],
            }

        def step(x, y, eps, seed, lowered):
            rate = float(networks[position].optimizer.learning_rate)
            given = (tuple(y.numpy()), float(eps), rate, tuple(seed.numpy()))
            calls.append((networks[position].name, *given))
            return traced(x, y, eps)

        return step

    networks += [_network(name, make(position)) for position, name in enumerate("fg")]
    rounds = alternate(Course(networks, _batches(), PLAN), start, watch or Watch())
    passes = [done for (done,) in rounds]
    return passes, calls, traces


def test_each_epoch_trains_f_then_g_with_the_schedules_of_the_epoch():
    passes, calls, _ = _alternate()
    assert [(p.epoch, p.learner.name) for p in passes] == list(itertools.product(range(4), "fg"))
    assert [name for name, *_ in calls] == list("fffggg") * 4
    for index, (_, _, eps, lr, _) in enumerate(calls):
        epoch = index // 6
        np.testing.assert_allclose(eps, schedules.epsilon(epoch, 0.1, 0.3, 2), rtol=1e-6)
        np.testing.assert_allclose(lr, schedules.halving(epoch, 0.01, 2), rtol=1e-6)


def test_no_step_is_traced_again_along_the_schedules():
    _, _, traces = _alternate()
    assert sorted(traces) == [0, 1]


@pytest.fixture(scope="module")
def whole():
    """The passes, the calls and the positions of a whole run."""
    positions = []
    watch = Watch()
    watch.boundary = lambda position: positions.append(position())
    passes, calls, _ = _alternate(watch=watch)
    return passes, calls, positions


@pytest.mark.parametrize("steps", [1, 6, 10, 17, 24])
def test_a_run_that_goes_on_sees_what_the_whole_run_saw(whole, steps):
    """Left between any two steps, also where a pass is done but not yet recorded."""
    whole, whole_calls, positions = whole
    assert len(positions) == len(whole_calls) == 24
    here = positions[steps - 1]
    assert 3 * here.passes + here.step == steps
    assert 1 <= here.step <= 3
    rest, rest_calls, _ = _alternate(here)
    assert rest_calls == whole_calls[steps:]
    assert [(p.index, p.eps, p.lr, p.metrics) for p in rest] == [
        (p.index, p.eps, p.lr, p.metrics) for p in whole[here.passes :]
    ]


def test_no_two_steps_draw_the_same_random_numbers():
    _, calls, _ = _alternate()
    assert len({seed for *_, seed in calls}) == len(calls) == 24


def test_the_metrics_of_a_pass_are_means_over_its_examples():
    passes, _, _ = _alternate()
    for done in passes:
        assert done.examples == 12
        np.testing.assert_allclose(done.metrics["clean_error"], 5.5, rtol=1e-6)
        np.testing.assert_allclose(done.metrics["loss"], done.eps, rtol=1e-6)


def _pass(epoch: int = 0, name: str = "f", **metrics: float) -> Pass:
    network = SimpleNamespace(name=name)
    index = 2 * epoch + "fg".index(name)
    return Pass(index, epoch, network, 0.1, 1e-3, {"loss": 2.5} | metrics, 100, 2.0)


def test_the_history_has_a_row_an_epoch_and_network(tmp_path):
    history = HistoryFile(tmp_path / "history.csv")
    history.add(Row.of(_pass(0, "f", clean_error=0.25), {"test_lp_error": 0.5}))
    history.add(Row.of(_pass(0, "g"), {}))
    with (tmp_path / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["network"]) for row in rows] == [("1", "f"), ("1", "g")]
    assert tuple(rows[0]) == COLUMNS
    assert (rows[0]["loss"], rows[0]["clean_error"], rows[0]["test_lp_error"]) == (
        "2.5",
        "0.25",
        "0.5",
    )
    assert rows[1]["test_lp_error"] == ""


def test_a_history_that_goes_on_replaces_the_rows_that_are_done_again(tmp_path):
    path = tmp_path / "history.csv"
    whole = HistoryFile(path)
    for epoch, name in itertools.product(range(2), "fg"):
        whole.add(Row.of(_pass(epoch, name), {}))
        if (epoch, name) == (0, "g"):
            rows = [dict(row) for row in whole.rows]
    expected = path.read_text()
    rest = HistoryFile(path, rows)
    # At once, not only when something is added.
    assert path.read_text() == "\n".join(expected.split("\n")[:3]) + "\n"
    for name in "fg":
        rest.add(Row.of(_pass(1, name), {}))
    assert path.read_text() == expected


def test_a_natural_run_trains_and_exports_both_networks_without_a_reference(tmp_path, capsys):
    flags = {"method": "natural", "epochs": 2, "eps_warmup_epochs": 1, "limit_test": 30}
    config, folder = open_run(flags | {"workdir": str(tmp_path / "run")}, resume=False)
    run(config, folder)
    with folder.history.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["network"] for row in rows] == ["f", "g", "f", "g"]
    for first, last in zip(rows[:2], rows[2:], strict=True):
        assert float(last["loss"]) < float(first["loss"])
        assert float(last["test_clean_error"]) < 0.5
        assert (last["eta"], last["robust_error"]) == ("", "")
    assert capsys.readouterr().out.count("epoch ") == 4
    images, labels = data.load("digits", "test", 30)
    for name, row in zip("fg", rows[2:], strict=True):
        predicted = np.argmax(export.load(folder.model(name))(images), axis=1)
        assert np.mean(predicted != labels) == pytest.approx(float(row["test_clean_error"]))


def read_scalars(folder) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value) of every scalar in a folder of TensorBoard's."""
    scalars = {}
    for path in sorted(folder.glob("events*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                number = float(tf.make_ndarray(value.tensor))
                scalars.setdefault(value.tag, []).append((event.step, number))
    return scalars


def test_summaries_are_scalars_at_the_epoch_in_a_folder_a_network(tmp_path):
    folder = Workdir(tmp_path)
    summaries = Summaries(folder, "fg")
    summaries.write(_pass(2, "g", **{"unstable/1": 0.75}), {"test_lp_error": 0.5})
    summaries.close()
    assert read_scalars(folder.events("f")) == {}
    assert read_scalars(folder.events("g")) == {
        "schedule/epsilon": [(3, pytest.approx(0.1))],
        "schedule/learning_rate": [(3, pytest.approx(1e-3))],
        "speed/examples_per_second": [(3, 50.0)],
        "training/loss": [(3, 2.5)],
        "unstable/1": [(3, 0.75)],
        "errors/test_lp": [(3, 0.5)],
    }


def test_every_scalar_says_what_it_is_and_the_errors_come_first(tmp_path):
    folder = Workdir(tmp_path)
    summaries = Summaries(folder, "f")
    metrics = [*METRICS, *ESTIMATES, "unstable/1", "unstable_estimate/2"]
    summaries.write(_pass(0, "f", **dict.fromkeys(metrics, 0.5)), dict.fromkeys(TESTS, 0.5))
    summaries.close()
    told = {}
    for path in folder.events("f").glob("events*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            told |= {v.tag: v.metadata.summary_description for v in event.summary.value}
    assert len(told) == len(metrics) + len(TESTS) + 3
    assert all(len(text) > 20 for text in told.values()), told
    assert len(set(told.values())) == len(told)
    assert all("estimated" in text for tag, text in told.items() if "_estimate" in tag)
    # TensorBoard opens the first groups.
    assert sorted({tag.split("/")[0] for tag in told})[0] == "errors"
    assert {tag for tag, text in told.items() if text.startswith("fraction of")} == {
        tag for tag in told if tag.startswith("errors/")
    }


def test_the_bar_shows_metrics_schedules_speed_and_time_left(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    progress = Progress(epochs=9, passes=18, batch_size=50)
    progress.begin(Begun("f", 0, 0.025, 1e-3, 4, 0))
    reads = []

    def read():
        reads.append(1)
        return {"loss": 1.25, "robust_error": 0.5, "clean_error": 0.125, "eta": 3.0}

    for _ in range(4):
        progress.advance("f", read)
    # Not read at every step: reading waits for the device.
    assert len(reads) == 1
    progress.end("f", read())
    for part in ("epoch 1/9 f", "loss=1.25", "robust_error=0.5", "clean_error=0.125"):
        assert part in stream.getvalue()
    for part in ("eps=0.025", "lr=0.001", "200/200", "examples/s"):
        assert part in stream.getvalue()


def test_a_pass_is_summed_up_in_one_line(capsys):
    progress = Progress(epochs=9, passes=18, batch_size=50)
    progress.summary(_pass(1, "g", robust_error=0.5, clean_error=0.25), {"test_lp_error": 0.125})
    line = capsys.readouterr().out
    assert line.count("\n") == 2
    header, line = line.splitlines()
    assert header.split("  ")[0] == "error rates"
    columns = ["error", "rates", "eps", "robust", "clean", "test", "LP", "left"]
    assert header.split() == columns
    assert line.split() == ["epoch", "2/9", "g", "0.1", "50.00%", "25.00%", "12.50%", "00:00"]
    # Each value ends below the last letter of its title.
    for title, value in (("robust", "50.00%"), ("test LP", "12.50%"), ("left", "00:00")):
        assert header.index(title) + len(title) == line.index(value) + len(value)


@pytest.mark.parametrize("ending", ["", "_estimate"])
def test_lines_of_passes_fit_a_terminal(capsys, ending):
    """The longest of every kind of run: hours left, hundreds of epochs, all of the errors."""
    for tests in (
        {"test_lp_error": 1.0, "test_clean_error": 1.0},
        {"test_interval_error": 1.0, "test_clean_error": 1.0},
    ):
        progress = Progress(epochs=160, passes=320, batch_size=50, spent=360.0)
        done = _pass(99, "g", clean_error=1.0, **{f"robust_error{ending}": 1.0})
        progress.summary(done._replace(eps=8.157 / 255), tests)
        header, line = capsys.readouterr().out.splitlines()
        assert len(header) == len(line) <= 80
        assert "100.00%" in line
        assert line.split()[-1].startswith("31:54:0")


def test_what_is_left_does_not_count_compiling(capsys, monkeypatch):
    """First steps of 100 s each, then 1 s; first test images 50 s, then 2 s: 7 s a pass."""
    now = [0.0]
    monkeypatch.setattr("robustra_tf.training.progress.time.perf_counter", lambda: now[0])
    progress = Progress(epochs=10, passes=20, batch_size=50)
    for number in range(4):
        name = "fg"[number % 2]
        progress.begin(Begun(name, number // 2, 0.1, 1e-3, 6, 0))
        for step in range(6):
            now[0] += 100 if number < 2 and step == 0 else 1
            progress.advance(name, dict)
        progress.end(name, {})
        for part in range(2):
            progress.evaluating(name)
            now[0] += 50 if number < 2 and part == 0 else 2
        progress.summary(_pass(number // 2, name), {})
    left = [line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:]]
    # Of 6 steps and 2 parts of the first passes, 5 and 1 are known: 7 s; later 10 s.
    assert left == ["02:13", "02:06", "02:24", "02:40"]


def test_what_is_left_counts_the_time_before_a_resume(capsys):
    # An hour for the first of three passes, nearly all of it in the process that was interrupted.
    progress = Progress(epochs=3, passes=3, batch_size=50, spent=3600.0)
    progress.summary(_pass(0, "f", robust_error=0.5, clean_error=0.25), {})
    header, line = capsys.readouterr().out.splitlines()
    assert header.split()[-1] == "left"
    assert line.split()[-1].startswith("2:00:0")
