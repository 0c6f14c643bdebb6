"""Folders of TensorFlow Datasets: what they say of themselves, and their images."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from robustra_tf.data.examples import LARGEST, Info
from robustra_tf.storage.reading import read_json

if TYPE_CHECKING:
    import tensorflow as tf

# The library imports the classes that a folder names: none but these.
_FEATURES = (
    "tensorflow_datasets.core.features.features_dict.FeaturesDict",
    "tensorflow_datasets.core.features.image_feature.Image",
    "tensorflow_datasets.core.features.class_label_feature.ClassLabel",
    "tensorflow_datasets.core.features.text_feature.Text",
)


def describe(folder: Path) -> Info:
    """What a prepared folder says of its images: 8 bits, one size, one or three channels.

    Raises:
      ValueError: it says something else, or nothing.
    """
    features = _features(folder)
    try:
        image, label = _supervised(folder)
        about = features["featuresDict"]["features"]
        kind = about[image]["image"]
        shape = tuple(int(size) for size in kind["shape"]["dimensions"])
        classes = int(about[label]["classLabel"]["numClasses"])
        splits = {
            split["name"]: sum(int(count) for count in split.get("shardLengths", ()))
            for split in read_json(folder / "dataset_info.json")["splits"]
        }
        fits = len(shape) == 3 and min(shape) > 0 and shape[2] in (1, 3)
        if not fits or kind.get("dtype", "uint8") != "uint8":
            raise ValueError(f"got {kind.get('dtype', 'uint8')} of shape {shape}")
        if max(splits.values()) * math.prod(shape) > LARGEST:
            raise ValueError(f"got more than {LARGEST} bytes of them")
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ValueError(
            f"{folder}: expected images of one size, 8 bits and 1 or 3 channels, each with its "
            f"class: {' '.join(str(error).split())}"
        ) from error
    return Info(shape, classes, splits, 255)


def read(folder: Path, info: Info, split: str, limit: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The first images of a split, uint8 [n, *shape], and their labels [n].

    Raises:
      ValueError: the folder is damaged, or not of such images.
    """
    import tensorflow as tf

    try:
        import tensorflow_datasets as tfds
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{folder}: reading it needs TensorFlow Datasets ({error}): pip install "
            "'robustra-tf[data]'"
        ) from error

    _features(folder)
    part = split if limit is None else f"{split}[:{limit}]"
    config = tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1)
    try:
        # From the folder alone: looking a dataset up by name may ask the network for it first.
        encoded = tfds.builder_from_directory(folder).as_dataset(
            split=part,
            as_supervised=True,
            shuffle_files=False,
            read_config=config,
            decoders={_supervised(folder)[0]: tfds.decode.SkipDecoding()},
        )
        first, _ = next(iter(encoded))
        decode = _decoder(first.numpy(), info.shape)
        decoded = encoded.map(lambda image, label: (decode(image), label), tf.data.AUTOTUNE)
        # More than there are, for one batch of all; at most so many for any folder.
        images, labels = next(iter(decoded.batch(info.splits[split])))
        images, labels = images.numpy(), labels.numpy()
    except StopIteration:
        raise ValueError(f"{folder}: its split {split!r} holds no examples") from None
    except (tf.errors.OpError, ValueError, KeyError, TypeError, AssertionError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise ValueError(f"{folder}: its split {split!r} cannot be read: {first_line}") from error
    wrong = (labels < 0) | (labels >= info.classes)
    if wrong.any():
        raise ValueError(
            f"{folder}: label {labels[wrong][0]} of example {wrong.argmax()} of {split!r} is no "
            f"class from 0 to {info.classes - 1}"
        )
    return images, labels


def _supervised(folder: Path) -> list[str]:
    """The names of the image and of the label among the features."""
    items = read_json(folder / "dataset_info.json")["supervisedKeys"]["tuple"]["items"]
    image, label = (item["featureKey"] for item in items)
    return [image, label]


def _features(folder: Path) -> dict:
    """The description of the features, which names no classes but those of images."""
    path = folder / "features.json"
    if not path.is_file():
        raise ValueError(f"{path}: expected the description of the features, found none")
    content = read_json(path)
    pending, found = [content], []
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            named = {item[key] for key in ("pythonClassName", "type") if key in item}
            found += [name for name in named if name not in _FEATURES]
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
    if found:
        raise ValueError(f"{path}: expected features of images alone, got {found[0]!r}")
    return content


_PNG = b"\x89PNG\r\n\x1a\n"


def _decoder(first: bytes, shape: tuple[int, ...]) -> Callable[[tf.Tensor], tf.Tensor]:
    """From an encoded image to its pixels, uint8 `shape`; as PNG or as JPEG, as the first one is.

    An image is decoded only where its header gives it the expected size.
    """
    import tensorflow as tf

    height, width, channels = shape
    told = f"image: expected a {{}} of {height} x {width} pixels"

    def of_png(encoded: tf.Tensor) -> tf.Tensor:
        expected = _PNG + struct.pack(">I4sII", 13, b"IHDR", width, height)
        header = tf.strings.substr(encoded, 0, len(expected))
        fits = tf.debugging.Assert(tf.equal(header, expected), [told.format("PNG")])
        with tf.control_dependencies([fits]):
            return tf.io.decode_png(tf.identity(encoded), channels)

    def of_jpeg(encoded: tf.Tensor) -> tf.Tensor:
        size = tf.image.extract_jpeg_shape(encoded)[:2]
        as_told = tf.reduce_all(tf.equal(size, (height, width)))
        fits = tf.debugging.Assert(as_told, [told.format("JPEG")])
        with tf.control_dependencies([fits]):
            return tf.io.decode_jpeg(tf.identity(encoded), channels)

    decode = of_png if first.startswith(_PNG) else of_jpeg
    return lambda encoded: tf.ensure_shape(decode(encoded), shape)
