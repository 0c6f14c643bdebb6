"""The parallel schedule on two logical processors: what it computes, where, and both at once."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from robustra_tf import data, export
from robustra_tf.cli import settings
from robustra_tf.training import checkpoint
from tests.test_train import read_scalars
from tests.two_devices import DEVICES, SETTINGS, STEPS
from train import devices
from train.workdir import Workdir

PROJECT = Path(__file__).resolve().parents[1]


def _python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "CUDA_VISIBLE_DEVICES": "-1"}
    environment |= {"TF_ENABLE_ONEDNN_OPTS": "0", "TF_CPP_MIN_LOG_LEVEL": "2"}
    # A single thread for both devices would leave nothing to overlap.
    environment |= {"TF_NUM_INTEROP_THREADS": "2"}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=400, check=False
    )


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """What the program of `two_devices` has left."""
    folder = tmp_path_factory.mktemp("parallel")
    done = _python("-m", "tests.two_devices", str(folder), cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def found(out):
    return json.loads((out / "found.json").read_text())


# Slow from here on: a process imports TensorFlow and traces steps, bounds and signatures of pairs.


@pytest.mark.slow
@pytest.mark.parametrize("method", ["robustra", "wong", "natural"])
def test_at_once_and_one_after_the_other_are_the_same_bits(found, method):
    """Also as the schedule's definition has it, written out by hand in the program."""
    compared = found[method]
    assert compared["moved"] > 1e-3
    assert compared["overlap_and_in_turn"] == 0
    assert compared["overlap_and_by_hand"] == 0
    assert compared["same_metrics"]
    assert compared["traces"] == [1, 1]


@pytest.mark.slow
def test_every_operation_of_a_step_is_on_its_networks_device(found):
    """The step's graph as TensorFlow has placed and cut it: the other device sends the batch."""
    for device in DEVICES:
        placement = found["placement"][device]
        assert set(placement["operations"]) == {device}
        assert placement["operations"][device] > 1000
        assert placement["variables"] == [device]
        received = {name.partition("/")[0] for name in placement["received"]}
        assert received <= {"x", "y"}


@pytest.mark.slow
def test_weights_cross_between_the_devices_once_an_epoch(found):
    """Sends between the devices in an epoch of several steps: the snapshots', and few others."""
    weights = 8  # kernels and biases of digits_small
    for device in DEVICES:
        sent = found["profile"]["sent"][device]
        assert weights <= sent < 2 * weights
        assert sent < STEPS * weights


@pytest.mark.slow
def test_the_trace_shows_operations_of_both_devices_at_the_same_time(found):
    """Intervals of single operations of f and of g intersect, for a good part of the time."""
    edges = []
    for sign, device in enumerate(DEVICES):
        spans = found["profile"]["ran"][device]
        assert len(spans) > 1000
        for start, end in spans:
            edges += [(start, 1, sign), (end, -1, sign)]
    running, before, together, busy = [0, 0], 0, 0, [0, 0]
    for at, change, device in sorted(edges):
        span = at - before
        together += span * (min(running) > 0)
        busy = [b + span * (r > 0) for b, r in zip(busy, running, strict=True)]
        running[device] += change
        before = at
    assert together > 0.2 * min(busy)


@pytest.mark.slow
def test_a_run_leaves_what_the_alternating_schedule_leaves(out):
    folder = Workdir(out / "whole")
    with folder.history.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["epoch"], r["network"]) for r in rows] == [*zip("1122", "fgfg", strict=True)]
    images, labels = data.load("digits", "test", SETTINGS["limit_test"])
    for name, row in zip("fg", rows[2:], strict=True):
        assert float(row["test_clean_error"]) <= float(row["test_lp_error"]) <= 1
        scalars = read_scalars(folder.events(name))
        assert {step for step, _ in scalars["reference/eta"]} == {1, 2}
        # Saved where there was a second device, read where there is none.
        logits = export.load(folder.model(name))(images)
        wrong = np.mean(np.argmax(logits, axis=1) != labels)
        assert wrong == pytest.approx(float(row["test_clean_error"]))
        served = tf.saved_model.load(str(folder.model(name))).signatures["serving_default"]
        np.testing.assert_allclose(served(image=tf.constant(images))["logits"], logits, atol=1e-5)
        stored = saved_model_pb2.SavedModel.FromString(
            (folder.model(name) / "saved_model.pb").read_bytes()
        )
        assert "CPU:1" not in str(stored.meta_graphs[0].graph_def)


@pytest.mark.slow
def test_a_run_that_ended_within_an_epochs_rows_goes_on_with_the_same_bits(out):
    whole, broken = Workdir(out / "whole"), Workdir(out / "broken")
    assert whole.history.read_text() == broken.history.read_text()
    newest = [checkpoint.found(f.checkpoints)[0] for f in (whole, broken)]
    assert newest[0].name == newest[1].name
    readers = [checkpoint.variables(path) for path in newest]
    keys = [key for key in readers[0].get_variable_to_shape_map() if key.startswith(("f/", "g/"))]
    # Four weights a network, in the model, twice in Adam and in the snapshot of the other.
    assert len(keys) == 2 * (4 * 4 + 2)
    for key in keys:
        left, right = (reader.get_tensor(key) for reader in readers)
        np.testing.assert_array_equal(left, right, err_msg=key)


@pytest.mark.slow
def test_the_pair_is_measured_by_both_schedules(found):
    measured = found["benchmark"]
    assert measured["traces"] == [1, 1, 1, 1]
    for name in ("alternating", "parallel"):
        timing = measured[name]
        assert timing["rounds"] == 2
        # Two examples for each of two networks go into a pair of steps.
        expected = timing["examples_per_second"] / 4
        assert timing["pairs_of_steps_per_second"] == pytest.approx(expected)
    assert measured["speedup"] > 0


@pytest.mark.slow
def test_a_device_that_is_not_there_is_refused_by_name(nursery, tmp_path):
    flags = {"schedule": "parallel", "devices_f": "CPU:0", "devices_g": "GPU:7"}
    flags["workdir"] = tmp_path / "run"
    life = nursery.run("train", "plain", **flags)
    assert (life.wait(), life.printed()) == (2, "")
    expected = "train.main: --devices_g: expected devices that are there (CPU:0), got 'GPU:7'"
    assert life.told().splitlines()[-1] == expected
    assert "Traceback" not in life.told()
    assert list(tmp_path.iterdir()) == []


def test_a_single_gpu_is_split_where_that_is_asked_for(monkeypatch):
    """No GPU is needed: what TensorFlow is asked for, and that several GPUs are left whole."""
    asked = []

    def machine(gpus):
        names = [f"/device:GPU:{k}" for k in range(2 if asked else gpus)]
        logical = [SimpleNamespace(name=name) for name in ("/device:CPU:0", *names)]
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind] * gpus)
        monkeypatch.setattr(tf.config, "get_logical_device_configuration", lambda device: None)
        monkeypatch.setattr(tf.config, "set_logical_device_configuration", configure)
        monkeypatch.setattr(tf.config, "list_logical_devices", lambda: logical)

    def configure(device, parts):
        asked.append((device, [part.memory_limit for part in parts]))
        machine(1)

    machine(1)
    wanted = [["GPU:0"], ["GPU:1"]]
    with pytest.raises(
        settings.SettingError, match=r"that are there \(CPU:0, GPU:0\), got 'GPU:1'"
    ):
        devices.require(wanted)
    devices.require(wanted, 500)
    assert asked == [("GPU", [500, 500])]
    asked.clear()
    machine(2)
    devices.require(wanted, 500)
    assert not asked


def test_names_of_devices():
    assert devices.names("devices_f", "gpu:0, GPU:01") == ("GPU:0", "GPU:1")
    assert devices.names("devices_f", "XPU_FAST:2") == ("XPU_FAST:2",)
    for text in ("", "CPU:0,GPU", "0,1", "CPU:0,,CPU:1"):
        with pytest.raises(settings.SettingError, match="--devices_g: expected TensorFlow dev"):
            devices.names("devices_g", text)
    with pytest.raises(settings.SettingError, match="not GPU:1 twice"):
        devices.names("devices_f", "GPU:1,gpu:1")
