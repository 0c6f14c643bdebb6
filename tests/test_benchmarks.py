"""The benchmarks' own arithmetic: what is counted, how it is timed, and what is written."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from benchmarks import (
    flops,
    harness,
    intake,
    lp,
    presets,
    profile,
    scaling,
    step,
    subjects,
)
from robustra_tf import models
from robustra_tf.cli import command
from robustra_tf.cli.settings import SettingError
from robustra_tf.graph import build
from robustra_tf.graph.ops import Dense
from robustra_tf.graph.spatial import Windowed
from tests import nets


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """No shared data: what every machine can measure."""
    monkeypatch.setenv("ROBUSTRA_SHARED", str(tmp_path / "none"))


# Counting.


def _branches() -> keras.Model:
    """Windows that overlap, strides, a sum of branches; no padding, so that no tap is lost."""
    inputs = keras.Input((13, 13, 2))
    stem = layers.Conv2D(3, 3, strides=2, activation="relu")(inputs)
    branches = [layers.Conv2D(4, 3)(stem), layers.Conv2D(4, 3)(stem)]
    joined = layers.ReLU()(layers.Add()(branches))
    hidden = layers.Dense(5, activation="relu")(layers.Flatten()(joined))
    return keras.Model(inputs, layers.Dense(nets.CLASSES)(hidden))


def _met(structure, weights, index):
    """Operations of one row by brute force: nonzero entries of real rows times weights they meet.

    Weights are all positive, so no entry cancels; each node's rows are written out as matrices.
    """
    start = np.zeros((1, *structure.nodes[index].op.out_shape))
    start[(0, *(0,) * (start.ndim - 1))] = 1.0
    rows, total = {index: start}, 0
    for at in range(index, 0, -1):
        if at not in rows:
            continue
        node, row = structure.nodes[at], rows.pop(at)
        arguments = [weights[i] for i in node.weights]
        if isinstance(node.op, Windowed | Dense):
            matrix = node.op.as_matrix(*arguments).numpy()
            if np.count_nonzero(row) > 1:
                total += 2 * np.count_nonzero(matrix[row.reshape(-1) != 0])
            row = (row.reshape(1, -1) @ matrix).reshape(1, *node.op.in_shape)
        else:
            row = row.reshape(1, *node.op.in_shape)
        for source in node.inputs:
            rows[source] = rows.get(source, 0) + row
    return total


def test_a_rows_operations_are_its_nonzero_entries_times_the_weights_they_meet():
    structure = build(_branches()).structure
    shapes = {}
    for node in structure.nodes:
        shapes |= dict(zip(node.weights, getattr(node.op, "weight_shapes", ()), strict=True))
    weights = [tf.ones(shapes[i]) for i in range(len(shapes))]
    counted = [structure.nodes[i].inputs[0] for i in structure.relus] + [len(structure.nodes) - 1]
    expected = [_met(structure, weights, index) for index in counted]
    assert [flops.row_flops(structure, index) for index in counted] == expected
    # By hand: 3x3 windows of 3 channels, each entry meeting 3x3 taps of 2 channels.
    assert expected[:2] == [0, 2 * 27 * 18]


def test_the_floor_of_mnist_small_is_the_published_one():
    structure = build(models.build("mnist_small", seed=0)).structure
    found = flops.floor(structure)
    # ReLU 2: 4x4x16 coefficients of 16 taps; ReLU 3: both transposed convolutions in full; nine
    # targets the same and the dense layer before them; the network itself.
    relu2, through, dense = 1568 * 2 * 256 * 16, 2 * (1568 * 256 + 3136 * 16), 2 * 1568 * 100
    network = through + dense + 2 * 100 * 10
    assert found.total == relu2 + 100 * through + 9 * (through + dense) + network
    assert round(found.total / 1e9, 2) == 0.12
    assert round(flops.step(structure, "robustra") / 1e9, 2) == 0.46
    assert flops.step(structure, "wong") == 3 * found.total
    margins = found.layers[-1]
    cheap = margins.rows * margins.flops + 4 * found.forward
    assert flops.step(structure, "robustra", "interval") == 4 * cheap
    assert found.with_rows([3136, 1568, 100]) == found.total
    assert found.with_rows([0, 0, 0]) == 9 * (through + dense) + network


# Timing.


def test_work_and_peak_take_turns(monkeypatch):
    clock, log = [0.0], []
    monkeypatch.setattr(harness.time, "perf_counter", lambda: clock[0])
    speeds = iter([2.0, 6.0, 2.0, 4.0, 4.0])

    def peak():
        log.append("peak")
        return next(speeds)

    def work(name, seconds):
        def run():
            log.append(name)
            clock[0] += seconds

        return run

    first, second = harness.interleave([work("a", 1.0), work("b", 3.0)], rounds=2, peak=peak)
    assert log == ["peak", "a", "peak", "b", "peak", "a", "peak", "b", "peak"]
    assert first.seconds == (1.0, 1.0)
    assert second.seconds == (3.0, 3.0)
    # The speed at the mean of the times before and after: 2 / (1/2 + 1/6) = 3, ...
    np.testing.assert_allclose(first.peak, (3.0, 8 / 3))
    np.testing.assert_allclose(second.peak, (3.0, 4.0))
    with pytest.raises(ValueError, match="rounds must be at least 1"):
        harness.interleave([], rounds=0, peak=peak)


def test_ratios_compare_a_round_with_the_peak_of_its_own_moment():
    # The machine slowed down threefold: the times differ, the ratios do not.
    timing = harness.Timing((0.1, 0.3, 0.1), (300.0, 100.0, 300.0))
    found = timing.summary(examples=5, flops=1.0)
    assert found["ratio"] == found["ratio_lowest"] == found["ratio_highest"] == pytest.approx(6.0)
    assert found["ms_per_example"] == pytest.approx(20.0)
    assert found["examples_per_second"] == pytest.approx(50.0)


def test_the_peak_is_a_speed():
    assert harness.peak_timer(64)() > 1e6


def test_a_process_knows_its_age_and_memory():
    import time

    before = harness.seconds_since_start()
    time.sleep(0.05)
    assert 0.04 <= harness.seconds_since_start() - before < 60
    assert 50 < harness.peak_memory_mb() < 2**20


def test_growth_is_measured_against_the_count(monkeypatch, alone):
    def training_step(model, method, memory_mb, channels):
        return (lambda x, y, eps: {"loss": tf.constant(0.0)}), 10 * channels**2

    def interleave(works, rounds):
        for work in works:
            work()
        # At equal peaks: twice the batch takes three times as long, four times the work as well.
        return [harness.Timing((s, 2 * s), (1.0, 0.5)) for s in (1.0, 3.0, 9.0)]

    monkeypatch.setattr(subjects, "training_step", training_step)
    monkeypatch.setattr(harness, "interleave", interleave)
    table = scaling.measure(scaling.Config("digits_small", batch=(1, 2), channels=(2,)))["table"]
    assert [(row["batch"], row["channels"], row["smaller"]) for row in table] == [
        (1, 1, None),
        (2, 1, 0),
        (2, 2, 1),
    ]
    assert "growth" not in table[0]
    assert [row["growth"] for row in table[1:]] == pytest.approx([3.0, 3.0])
    assert [row["growth_of_work"] for row in table[1:]] == pytest.approx([2.0, 4.0])
    assert [row["growth_over_work"] for row in table[1:]] == pytest.approx([1.5, 0.75])


def test_a_profile_lists_operations_by_their_time():
    large = tf.random.uniform((300, 300))
    work = tf.function(lambda: tf.reduce_sum(tf.sort(large @ large)))
    work()
    found = profile.times(lambda: float(work()), repeats=2)
    spent = [milliseconds for milliseconds, _ in found.values()]
    assert spent == sorted(spent, reverse=True)
    assert min(spent) >= 0
    assert any("MatMul" in kind for kind in found)


# Programs.


def test_the_step_is_measured(alone):
    config = step.Config("wong", "digits_small", batch=2, rounds=1)
    found = step.measure(config)
    json.dumps(found)
    assert found["traces"] == 1
    structure = build(models.build("digits_small", seed=0)).structure
    assert found["gflop_per_example"] == pytest.approx(flops.step(structure, "wong") / 1e9)
    assert found["ratio"] == pytest.approx(
        found["ms_per_example"] * found["peak_gflops"] / found["gflop_per_example"] / 1e3, rel=1e-3
    )
    assert found["images"] == "digits test"


def test_the_evaluation_counts_every_image_once(alone):
    found = lp.measure(lp.Config("digits_small", eps=0.0, limit=5, batch=3))
    json.dumps(found)
    digits = subjects.images("digits_small", 5)
    logits = subjects.network("digits_small")(digits.images).numpy()
    error = np.mean(logits.argmax(1) != digits.labels)
    # At radius 0 the bound is the network itself, and no neuron is in doubt.
    assert found["count"] == 5
    assert found["lp_error"] == found["clean_error"] == pytest.approx(error)
    assert found["unstable_per_layer"] == [0.0] * len(found["neurons_per_layer"])


def test_a_model_is_timed_beside_its_graph(alone):
    found = intake.measure(intake.Config("digits_small", eps=0.01, limit=4, rounds=3))
    json.dumps(found)
    graph, model = (sorted(found["cpu_seconds"][way]) for way in ("graph", "model"))
    assert len(graph) == len(model) == 3
    assert graph[0] > 0
    assert found["share"] == pytest.approx(model[1] / graph[1] - 1)


def test_a_program_in_a_process_of_its_own_says_why_it_failed():
    with pytest.raises(RuntimeError, match="--batch: expected at least 1, got 0"):
        harness.fresh("benchmarks.step", {"batch": 0, "method": None})


def test_flags_become_settings(capsys):
    config = command.read(scaling.Config, "scaling", "text", ["--batch=2,4", "--eps", "0.25"])
    assert config == dataclasses.replace(scaling.Config(), batch=(2, 4), eps=0.25)
    for flags, message in (
        (["--eps=2"], "--eps: expected at least 0 and at most 1 in pixels"),
        (["--method=other"], "--method"),
        (["--epsilon=1"], "--epsilon"),
    ):
        with pytest.raises(SystemExit) as stopped:
            command.read(step.Config, "step", "text", flags)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err


# Subjects.


@pytest.mark.parametrize("model", ["digits_small", "mnist_small", "cifar10_small"])
def test_images_are_there_without_any_dataset(alone, model):
    assert subjects.weights_for(model) == subjects.RANDOM
    found = subjects.images(model, 4)
    assert "digits" in found.source
    assert found.images.shape == (4, *models.build(model, seed=0).input_shape[1:])
    assert found.images.dtype == np.float32
    assert 0 <= found.images.min() < 0.1 < 0.9 < found.images.max() <= 1
    images, labels = subjects.batch(found, 6)
    np.testing.assert_array_equal(images[4:], found.images[:2])
    np.testing.assert_array_equal(labels[4:], found.labels[:2])


def test_more_channels_are_more_filters():
    plain, wide = (subjects.network("digits_small", channels=k) for k in (1, 2))
    filters = [
        [layer.filters for layer in model.layers if isinstance(layer, layers.Conv2D)]
        for model in (plain, wide)
    ]
    assert filters[1] == [2 * count for count in filters[0]]
    assert wide.input_shape == plain.input_shape
    # As wide as each is, its weights keep within 1 / sqrt(inputs), and nearly reach it.
    for layer in wide.layers:
        if layer.weights:
            inputs = np.prod(layer.kernel.shape[:-1])
            assert 0.9 < np.abs(layer.kernel).max() * np.sqrt(inputs) <= 1.001
    with pytest.raises(ValueError, match="channels must be 1"):
        subjects.network("mnist_small", "weights.mat", channels=2)


def test_published_weights_are_another_network_than_their_reference(shared):
    f, g = subjects.pair("mnist_small", subjects.PUBLISHED)
    for a, b in zip(f.trainable_variables, g.trainable_variables, strict=True):
        assert not np.array_equal(a, b)
    found = subjects.images("mnist_small", 50)
    assert found.source == "mnist test"
    assert np.mean(f(found.images).numpy().argmax(1) == found.labels) > 0.9


@pytest.mark.oracle
def test_recipes_are_measured_as_training_begins_them(shared, monkeypatch):
    """Two steps of the smallest recipe, on two images each; a wrong flag is refused in one line."""
    monkeypatch.setenv("ROBUSTRA_SHARED", str(shared))
    found = presets.measure(presets.Config(preset="mnist_small_0.1", steps=2, batch=2))
    assert (found["preset"], found["projection"], found["batch"]) == ("mnist_small_0.1", 0, 2)
    assert (found["steps"], found["eps"], found["finite"]) == (2, 0.01, True)
    assert found["loss_first"] != found["loss_last"]
    assert found["first_step_s"] > 1e-3 * found["ms_per_step"] > 0
    assert found["peak_memory_mb"] > 100
    with pytest.raises(SettingError, match="--steps: expected at least 2"):
        presets.Config(steps=1)
