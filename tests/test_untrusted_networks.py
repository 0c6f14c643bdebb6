"""Weights and networks from anywhere: damaged, lying about their sizes, or carrying code."""

import io
import json
import pickle
import struct
import zlib

import keras
import numpy as np
import pytest
import scipy.io
import tensorflow as tf
from keras import layers

from robustra_tf import export, published
from robustra_tf.storage import description
from tests import nets
from tests.hostile import HUGE, Payload, refused

pytestmark = pytest.mark.usefixtures("nothing_runs")


def test_the_payload_does_run_where_it_is_believed(tmp_path):
    """Without this, the fixture `nothing_runs` could not fail."""
    pickle.loads(pickle.dumps(Payload(tmp_path)))
    (tmp_path / "ran").rmdir()


# MATLAB files


def network():
    inputs = keras.Input((3,))
    x = layers.Dense(4, activation="relu", name="first")(inputs)
    return keras.Model(inputs, layers.Dense(2, name="last")(x), name="net")


def fields():
    rng = np.random.default_rng(0)
    shapes = {"0/weight": (3, 4), "0/bias": (1, 4), "2/weight": (4, 2), "2/bias": (1, 2)}
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def matlab(**changed):
    """The bytes of a MATLAB file of the network's fields, some of them changed."""
    file = io.BytesIO()
    scipy.io.savemat(file, fields() | {name.replace("_", "/"): v for name, v in changed.items()})
    return file.getvalue()


def element(kind, content):
    padding = 0 if kind == 15 else -len(content) % 8  # 15: compressed
    return struct.pack("<II", kind, len(content)) + content + bytes(padding)


def matrix(name, shape, content):
    """An element of doubles that declares `shape`, whatever `content` holds."""
    name = name.encode()
    body = element(6, struct.pack("<II", 6, 0)) + element(5, struct.pack("<2i", *shape))
    return element(14, body + element(1, name) + element(9, content))


HEADER = matlab()[:128]


def opaque():
    """A function handle, as MATLAB would write it: class 16 of an array."""
    body = element(6, struct.pack("<II", 16, 0)) + element(5, struct.pack("<2i", 1, 1))
    return HEADER + element(14, body + element(1, b"0/weight"))


def bomb():
    """A field that declares 2^40 entries, in a compressed element of some kilobytes."""
    parts = {name: matrix(name, v.shape, v.tobytes("F")) for name, v in fields().items()}
    parts["0/weight"] = matrix("0/weight", (2**20, 2**20), bytes(2**22))
    return HEADER + b"".join(element(15, zlib.compress(part)) for part in parts.values())


MATLAB = {
    "empty": (b"", "expected a MATLAB file"),
    "wrong magic": (b"\x93NUMPY" + bytes(200), "expected a MATLAB file"),
    "truncated": (matlab()[:-60], "expected a MATLAB file"),
    "truncated in its header": (matlab()[:100], "expected a MATLAB file"),
    "version 7.3": (b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(64), "7.2 or less"),
    "wrong shape": (matlab(**{"0_weight": np.zeros((4, 3))}), "'0/weight' has shape (4, 3)"),
    "NaN weights": (matlab(**{"2_bias": np.full((1, 2), np.nan)}), "'2/bias' holds values"),
    "complex weights": (matlab(**{"2_bias": np.full((1, 2), 1j)}), "'2/bias' holds values"),
    "text": (matlab(**{"0_weight": "weights"}), "'0/weight' is of class 'char'"),
    "structure": (matlab(**{"0_weight": {"a": 1.0}}), "'0/weight' is of class 'struct'"),
    "cells": (
        matlab(**{"2_weight": np.array([[1.0, "x"]], object)}),
        "'2/weight' is of class 'cell'",
    ),
    "function handle": (opaque(), "expected"),
    "huge shape, compressed": (bomb(), "'0/weight' has shape (1048576, 1048576)"),
    "shape without its numbers": (
        HEADER + b"".join(matrix(n, v.shape, b"") for n, v in fields().items()),
        "",
    ),
    "a field twice": (matlab() + matrix("0/bias", (1, 4), bytes(32)), "'0/bias' is there more"),
}


@pytest.mark.parametrize(("content", "message"), MATLAB.values(), ids=MATLAB)
def test_a_malformed_matlab_file_is_refused(tmp_path, content, message):
    path = tmp_path / "weights.mat"
    path.write_bytes(content)
    model = network()
    before = model.get_weights()
    refused(lambda: published.load_mat(model, path), path, message)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_malformed_matlab_files_are_near_a_good_one(tmp_path):
    (tmp_path / "weights.mat").write_bytes(matlab())
    model = published.load_mat(network(), tmp_path / "weights.mat")
    np.testing.assert_allclose(model.layers[1].kernel, fields()["0/weight"], rtol=1e-6)


# Saved models


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return export.save(nets.dense(), tmp_path_factory.mktemp("saved") / "f", certifies=False)


@pytest.fixture
def changed(saved, tmp_path):
    """Copies the saved model and hands its description to a function that changes it."""

    def change(edit):
        copy = tmp_path / "copy"
        for path in saved.rglob("*"):
            if path.is_file():
                target = copy / path.relative_to(saved)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
        about = copy / description.FILE
        content = json.loads(about.read_text())
        edit(content["architecture"]["config"]["layers"])
        about.write_text(json.dumps(content))
        return copy

    return change


def test_weights_larger_than_the_checkpoint_are_refused_before_they_are_made(changed):
    """2^40 units would take terabytes."""
    copy = changed(lambda parts: parts[-1]["config"].update(units=HUGE))
    refused(lambda: export.load(copy), copy, "kernel", str(HUGE), "in its checkpoint")


def test_a_checkpoint_that_declares_more_than_its_files_hold_is_refused(changed):
    copy = changed(lambda parts: None)
    part = next((copy / "variables").glob("variables.data-*"))
    part.write_bytes(part.read_bytes()[:64])
    refused(lambda: export.load(copy), copy, "larger than the 64 bytes of its files")


def test_the_graph_of_a_saved_model_is_never_run(changed, tmp_path):
    """Its operations may read and write files; architecture and weights alone are read back."""
    copy = changed(lambda parts: None)
    # Checksums find what was damaged, not what was altered with care.
    about = json.loads((copy / description.FILE).read_text())
    del about["files"]
    (copy / description.FILE).write_text(json.dumps(about))

    class Writer(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 5])])
        def __call__(self, x):
            tf.io.write_file(str(tmp_path / "ran"), "x")
            return x

    writer = Writer()
    tf.saved_model.save(writer, str(tmp_path / "writer"))
    assert not (tmp_path / "ran").exists()
    (copy / "saved_model.pb").write_bytes((tmp_path / "writer" / "saved_model.pb").read_bytes())
    model = export.load(copy)
    model(np.zeros((1, 5), np.float32))
    (copy / "saved_model.pb").write_bytes(b"neither a graph")
    export.load(copy)
