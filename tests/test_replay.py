"""Counterexamples by networks as they were exported, whichever way."""

import json

import numpy as np
import pytest

import robustra_tf as rt
from eval import replay
from tests import nets

pytestmark = pytest.mark.usefixtures("eager")


@pytest.fixture(scope="module")
def exported(eager, tmp_path_factory):
    """One network in every format, with images and what it answers."""
    home, model = tmp_path_factory.mktemp("exported"), nets.conv()
    model.save(home / "net.keras")
    rt.onnx.save(model, home / "net.onnx")
    rt.export.save(model, home / "net", certifies=False)
    x = nets.images(model, 6, seed=3)
    return home, x, model(x).numpy()


@pytest.mark.parametrize("name", ["net.keras", "net.onnx", "net"])
def test_what_is_unsafe_is_the_networks_own_answer(exported, name):
    home, x, logits = exported
    labels = logits.argmax(1)
    labels[::2] = logits.argmin(1)[::2]
    runtime, run = replay.opened(home / name)
    assert runtime.split()[0] in ("Keras", "onnxruntime", "TensorFlow")
    assert replay.unsafe(run, x, labels).tolist() == [True, False] * 3


def test_the_program_prints_what_it_found(exported, capsys, tmp_path):
    home, x, logits = exported
    points = tmp_path / "points.npz"
    np.savez(points, x=x, label=logits.argmin(1))
    assert replay.main([str(home / "net.onnx"), str(points)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["unsafe"] == [True] * 6
    assert replay.main([str(tmp_path / "net.mat"), str(points)]) == 2
    assert "expected .keras, .h5, .onnx or a SavedModel" in capsys.readouterr().err
    np.savez(points, x=x, label=np.full(6, 99))
    assert replay.main([str(home / "net.onnx"), str(points)]) == 2
    assert "outputs must be logits" in capsys.readouterr().err


def test_logits_that_are_no_numbers_show_nothing():
    rows = np.float32([[0, 1], [np.nan, 1], [np.inf, 1], [1, 1]])
    found = replay.unsafe(lambda x: rows, rows, np.zeros(4, int))
    assert found.tolist() == [True, False, False, True]
