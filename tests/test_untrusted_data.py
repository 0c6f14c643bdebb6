"""Data sets from anywhere, refused by name."""

import json
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf

from robustra_tf import data
from tests.hostile import refused

pytestmark = pytest.mark.usefixtures("nothing_runs")


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


def dataset(root, examples, image=IMAGE, name="mnist"):
    """A prepared data set of the given (encoded image, label) for its test split; its folder."""
    folder = root / name / "3.0.1"
    name = name.partition("/")[0]
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
        "name": name,
        "splits": [split | {"shardLengths": [str(len(examples))]}],
        "supervisedKeys": {
            "tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]},
        },
        "version": "3.0.1",
    }
    (folder / "dataset_info.json").write_text(json.dumps(about))
    with tf.io.TFRecordWriter(str(folder / f"{name}-test.tfrecord-00000-of-00001")) as writer:
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
