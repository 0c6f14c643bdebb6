"""Files from anywhere: damaged, lying about their sizes, or carrying code; refused by name.

Every malformed file is written here, byte by byte where a library would not write it. A payload
that ran would leave a file behind.
"""

import io
import json
import os
import pickle
import struct
import zipfile
import zlib

import keras
import numpy as np
import pytest
import scipy.io
import tensorflow as tf
from keras import layers

from eval import curves, ledger, results, sweep, witnesses
from robustra_tf import data, description, export, published
from robustra_tf.reading import Field, read_arrays, read_json
from tests import nets

HUGE = 2**40


class Payload:
    """Unpickled, it would create the file `ran`."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder / "ran"),)


@pytest.fixture(autouse=True)
def _nothing_runs(tmp_path):
    """No payload of the test has run."""
    yield
    assert not (tmp_path / "ran").exists()


def refused(read, path, *words):
    """`read()` raises one `ValueError` that names the file and all of `words`; its text."""
    with pytest.raises(ValueError) as raised:
        read()
    text = str(raised.value)
    for word in (str(path), *words):
        assert word in text, text
    return text


def test_the_payload_does_run_where_it_is_believed(tmp_path):
    """Without this, the fixture above could not fail."""
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


# Archives of arrays

IDENTITY = {"eps": 0.1, "norm": "linf", "box": [0.0, 1.0]}


def columns():
    rng = np.random.default_rng(1)
    image = rng.uniform(0.2, 0.8, size=(2, 4, 4, 1)).astype(np.float32)
    return {
        "stage": np.array(["pgd", "pgd"]),
        "index": np.array([1, 2]),
        "label": np.array([0, 1]),
        "predicted": np.array([3, 4]),
        "image": image,
        "adversarial": image + np.float32(0.05),
        "evaluation": np.array(ledger.evaluation_id(IDENTITY)),
    }


def npy(array=None, header=None):
    """An array as `.npy`; or one whose header says what it likes, with nothing behind it."""
    file = io.BytesIO()
    if header is None:
        np.lib.format.write_array(file, np.asarray(array), allow_pickle=True)
    else:
        np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def archive(changed=None, extra=(), left_out=()):
    """The bytes of a witness file, some of its members changed."""
    members = {f"{name}.npy": npy(value) for name, value in columns().items()}
    members |= changed or {}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in (*members.items(), *extra):
            if name not in left_out:
                made.writestr(name, content)
    return file.getvalue()


def lying_directory():
    """A member whose entry in the directory claims another size than it has."""
    content = bytearray(archive())
    at = content.rindex(b"index.npy") - 46  # its central header
    size = struct.unpack_from("<I", content, at + 24)[0]
    struct.pack_into("<I", content, at + 24, size + 8)
    return bytes(content)


def flat(shape):
    return npy(header={"descr": "<f4", "fortran_order": False, "shape": shape})


ARCHIVES = {
    "not an archive": (lambda _: b"PK but nothing else", "not a zip"),
    "truncated": (lambda _: archive()[:-30], "not a zip"),
    "damaged inside": (
        lambda _: archive().replace(archive()[400:410], b"\x00" * 10, 1),
        "witnesses.npz",
    ),
    "missing field": (lambda _: archive(left_out=["label.npy"]), "'label'"),
    "a field twice": (lambda _: archive(extra=[("label.npy", npy([0, 1]))]), "'label'"),
    "pickled objects": (
        lambda folder: archive({"stage.npy": npy(np.array([Payload(folder)] * 2, object))}),
        "'stage'",
    ),
    "a pickle for an array": (
        lambda folder: archive({"image.npy": pickle.dumps(Payload(folder))}),
        "'image'",
    ),
    "huge declared shape": (lambda _: archive({"image.npy": flat((2, HUGE, HUGE, 1))}), "'image'"),
    "negative shape": (lambda _: archive({"image.npy": flat((2, -4, -4, 1))}), "'image'"),
    "a directory that lies": (lambda _: lying_directory(), "'index'"),
    "a bomb": (
        lambda _: archive({"image.npy": flat((1, 2**12, 2**13, 1)) + bytes(2**27)}),
        "'image': 134217856 bytes, expected at most",
    ),
    "text for numbers": (lambda _: archive({"label.npy": npy(["a", "b"])}), "'label'"),
    "lengths that differ": (lambda _: archive({"label.npy": npy([0, 1, 2])}), "lengths"),
    "negative index": (lambda _: archive({"index.npy": npy([1, -2])}), "'index'"),
}


@pytest.mark.parametrize(("make", "message"), ARCHIVES.values(), ids=ARCHIVES)
def test_a_malformed_archive_is_refused(tmp_path, make, message):
    path = tmp_path / witnesses.NAME
    path.write_bytes(make(tmp_path))
    refused(lambda: witnesses.read(tmp_path, IDENTITY), path, message)


def test_the_malformed_archives_are_near_a_good_one(tmp_path):
    (tmp_path / witnesses.NAME).write_bytes(archive())
    assert [w.index for w in witnesses.read(tmp_path, IDENTITY)] == [1, 2]


def test_sizes_count_together(tmp_path):
    path = tmp_path / "two.npz"
    np.savez(path, a=np.zeros(100), b=np.zeros(100))
    wanted = dict.fromkeys("ab", Field("f", 1))
    assert set(read_arrays(path, wanted, most=2000)) == {"a", "b"}
    refused(lambda: read_arrays(path, wanted, most=1200), path, "'b'", "at most 400")


# Saved models and .keras files


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


def test_a_keras_file_is_no_saved_model_and_its_code_is_not_run(tmp_path):
    source = f"__import__('os').mkdir({str(tmp_path / 'ran')!r})"
    code = keras.Sequential([keras.Input((3,)), layers.Lambda(lambda x: eval(source) or x, (3,))])
    path = tmp_path / "net.keras"
    if (tmp_path / "ran").exists():  # building traces it
        (tmp_path / "ran").rmdir()
    code.save(path)
    with pytest.raises(FileNotFoundError, match=r"net\.keras: there is no such SavedModel"):
        export.load(path)


# Ledgers, tables and settings


def write_ledger(folder, *lines, finished=False, about=None):
    folder.mkdir(exist_ok=True)
    header = ",".join(ledger.FIELDS)
    text = "\n".join([header, *lines]) + "\n"
    (folder / ledger.NAME).write_bytes(text.encode("latin-1"))
    stored = {"identity": {}, "seconds": {"lp": 1.0}, "finished": finished}
    content = about if about is not None else json.dumps(stored)
    (folder / ledger.IDENTITY_NAME).write_text(content)


GOOD = "1,2,3,verified,lp,0.5,4,0.1"
LINES = {
    "not UTF-8": ("1,2,3,verified,l\xffp,0.5,4,0.1", "not text"),
    "NUL bytes": ("\0" * 40, "line 3"),
    "a field without end": ('1,2,3,verified,"' + "x" * 200_000, "line 3"),
    "negative index": (GOOD.replace("1", "-1", 1), "line 3: index"),
    "negative label": ("1,-2,3,verified,lp,0.5,4,0.1", "line 3: label"),
    "a number of 10,000 digits": ("9" * 10_000 + GOOD[1:], "line 3: index"),
    "underscores": ("1_0" + GOOD[1:], "line 3: index"),
    "NaN margin": ("1,2,3,verified,lp,nan,4,0.1", "line 3: margin_lower"),
    "infinite seconds": ("1,2,3,verified,lp,0.5,4,inf", "line 3: row: expected"),
    "unknown status": ("1,2,3,proven,lp,0.5,4,0.1", "line 3: status"),
    "too many fields": (GOOD + ",", "line 3: expected 8 fields"),
}


@pytest.mark.parametrize(("line", "message"), LINES.values(), ids=LINES)
def test_a_malformed_ledger_is_refused(tmp_path, line, message):
    write_ledger(tmp_path / "out", "7" + GOOD[1:], line)
    refused(lambda: ledger.read(tmp_path / "out"), tmp_path / "out" / ledger.NAME, message)


def test_a_finished_ledger_has_each_example_once(tmp_path):
    """While it goes on, the newest row of an example is the one that counts."""
    out = tmp_path / "out"
    write_ledger(out, GOOD, GOOD.replace("verified", "unknown"))
    assert ledger.read(out).rows[1].status == "unknown"
    write_ledger(out, GOOD, GOOD.replace("verified", "unknown"), finished=True)
    refused(lambda: ledger.read(out), out / ledger.NAME, "line 3: index: 1 was there before")


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ("[" * 100_000, "not JSON"),
        ('{"identity": {}, "seconds": {}}', "'finished'"),
        ('{"identity": [], "seconds": {}, "finished": true}', "'identity'"),
        ('{"identity": {}, "seconds": {"lp": "x"}, "finished": true}', "'seconds' of 'lp'"),
        ('{"identity": {}, "seconds": {"lp": NaN}, "finished": true}', "'seconds' of 'lp'"),
        ("[1]", "'identity'"),
    ],
    ids=["deep", "missing", "list", "text", "NaN", "no object"],
)
def test_a_malformed_identity_is_refused(tmp_path, about, message):
    out = tmp_path / "out"
    write_ledger(out, GOOD, about=about)
    refused(lambda: ledger.read(out), out / ledger.IDENTITY_NAME, message)


def test_json_of_any_size_is_not_read(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text("[" + "0," * 50 + "0]")
    assert read_json(path) == [0] * 51
    refused(lambda: read_json(path, most=100), path, "at most 100 bytes")
    path.write_bytes(b'{"name": "\xff"}')
    refused(lambda: read_json(path), path, "not JSON")


def test_other_tables_and_settings_are_refused_by_name(tmp_path):
    (tmp_path / "results.json").write_text("[" * 100_000)
    refused(lambda: results.read(tmp_path), tmp_path / "results.json", "not JSON")
    endless = '"' + "x" * 200_000
    (tmp_path / sweep.NAME).write_text(f"eps,evaluation\n{endless},1\n")
    refused(lambda: sweep.read(tmp_path, IDENTITY), tmp_path / sweep.NAME, "damaged")
    (tmp_path / "config.json").write_text('{"method": "wong"}')
    (tmp_path / "history.csv").write_text(f"epoch,network\n{endless}\n")
    refused(lambda: curves.read(tmp_path), tmp_path, "history.csv, line 2")
    (tmp_path / "config.json").write_text("{" * 100_000)
    refused(lambda: curves.read(tmp_path), tmp_path, "config.json", "not JSON")


# Data sets


def png(width, height):
    """A PNG that says how large it is, and holds nothing."""
    header = struct.pack(">II5B", width, height, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n"
    for name, body in parts:
        crc = struct.pack(">I", zlib.crc32(name + body))
        content += struct.pack(">I", len(body)) + name + body + crc
    return content


IMAGE = {
    "pythonClassName": "tensorflow_datasets.core.features.image_feature.Image",
    "image": {"shape": {"dimensions": ["28", "28", "1"]}, "dtype": "uint8"},
}
LABEL = {
    "pythonClassName": "tensorflow_datasets.core.features.class_label_feature.ClassLabel",
    "classLabel": {"numClasses": "10"},
}


def dataset(root, examples, image=IMAGE):
    """A prepared MNIST of the given (encoded image, label) for its test split; its folder."""
    folder = root / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    features = {
        "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
        "featuresDict": {"features": {"image": image, "label": LABEL}},
    }
    (folder / "features.json").write_text(json.dumps(features))
    shard = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    split = {"filepathTemplate": shard, "name": "test", "numBytes": "1"}
    about = {
        "fileFormat": "tfrecord",
        "name": "mnist",
        "splits": [split | {"shardLengths": [str(len(examples))]}],
        "supervisedKeys": {
            "tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]},
        },
        "version": "3.0.1",
    }
    (folder / "dataset_info.json").write_text(json.dumps(about))
    with tf.io.TFRecordWriter(str(folder / "mnist-test.tfrecord-00000-of-00001")) as writer:
        for encoded, label in examples:
            feature = {
                "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded])),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
            }
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())
    return folder


def picture():
    return tf.io.encode_png(np.arange(784, dtype=np.uint8).reshape(28, 28, 1)).numpy()


def test_a_data_set_made_here_is_read(tmp_path):
    dataset(tmp_path, [(picture(), 3), (picture(), 9)])
    images, labels = data.load("mnist", "test", data_dir=tmp_path)
    expected = np.arange(784, dtype=np.uint8).reshape(28, 28, 1) / np.float32(255)
    np.testing.assert_array_equal(images, [expected] * 2)
    np.testing.assert_array_equal(labels, [3, 9])


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([(picture(), 1), (png(60_000, 60_000), 1)], "image: expected a PNG of 28 x 28 pixels"),
        ([(b"GIF89a" + bytes(40), 1)], "cannot be read"),
        ([(picture()[:80], 1)], "cannot be read"),
        ([(picture(), 10)], "label 10 of example 0"),
        ([], "cannot be read"),
    ],
    ids=["huge", "no picture", "truncated picture", "label", "empty"],
)
def test_a_malformed_data_set_is_refused(tmp_path, examples, message):
    folder = dataset(tmp_path, examples)
    refused(lambda: data.load("mnist", "test", data_dir=tmp_path), folder, message)


def test_a_truncated_record_is_refused(tmp_path):
    folder = dataset(tmp_path, [(picture(), 1), (picture(), 2)])
    part = folder / "mnist-test.tfrecord-00000-of-00001"
    part.write_bytes(part.read_bytes()[:-100])
    refused(lambda: data.load("mnist", "test", data_dir=tmp_path), folder, "cannot be read")


def test_a_data_set_that_names_code_is_refused(tmp_path, monkeypatch):
    """The library imports the classes of features by the names in the file."""
    module = tmp_path / "payload_of_a_data_set.py"
    module.write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\nclass Image: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    image = IMAGE | {"pythonClassName": "payload_of_a_data_set.Image"}
    folder = dataset(tmp_path, [(picture(), 1)], image)
    refused(
        lambda: data.load("mnist", "test", data_dir=tmp_path),
        folder / "features.json",
        "payload_of_a_data_set.Image",
    )
