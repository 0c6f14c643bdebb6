"""Labelled images in [0, 1], and what is known of each dataset.

`digits` is embedded in scikit-learn; `mnist` and `cifar10` are read from TensorFlow Datasets'
folders, which are never downloaded here. Importing this module imports neither of them, nor
TensorFlow: a missing folder is known at once.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from robustra_tf.storage.reading import read_json

if TYPE_CHECKING:
    import tensorflow as tf

_DIGITS_TEST = 360


class Info(NamedTuple):
    """What is known of a dataset without reading it.

    Example:
      >>> rt.data.INFO["digits"].shape
      (8, 8, 1)
    """

    shape: tuple[int, int, int]
    classes: int
    train: int  # examples
    test: int
    largest: int  # the pixel value that stands for 1.0


INFO = {
    "digits": Info((8, 8, 1), 10, 1437, _DIGITS_TEST, 16),
    "mnist": Info((28, 28, 1), 10, 60_000, 10_000, 255),
    "cifar10": Info((32, 32, 3), 10, 50_000, 10_000, 255),
}
NAMES = tuple(INFO)
SPLITS = ("train", "test")


class Dataset(NamedTuple):
    """Images float32 `[n, h, w, c]` in [0, 1] and their labels int32 `[n]`.

    Example:
      >>> images, labels = rt.data.load("digits", "test", limit=2)
      >>> images.shape, labels.shape
      ((2, 8, 8, 1), (2,))
    """

    images: np.ndarray
    labels: np.ndarray


class DataNotFoundError(FileNotFoundError):
    """A dataset's folder is not there; the text says which was tried and what to do."""


def load(
    name: str, split: str, limit: int | None = None, data_dir: str | os.PathLike | None = None
) -> Dataset:
    """The first `limit` examples of a split, in an order that never changes.

    Args:
      name: one of `NAMES`.
      split: "train" or "test".
      limit: how many examples at most; None means all.
      data_dir: TensorFlow Datasets' folder; None means TFDS_DATA_DIR, or else its default,
        ~/tensorflow_datasets. `digits` needs none.

    Returns:
      A `Dataset`: images float32 `[n, h, w, c]` in [0, 1], labels int32 `[n]`.

    Raises:
      ValueError: an unknown name or split, a limit below 1, or a folder that is damaged.
      DataNotFoundError: the folder does not hold the dataset.

    Example:
      >>> rt.data.load("digits", "train").images.shape
      (1437, 8, 8, 1)
    """
    info = _info(name)
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit: expected None or at least 1, got {limit}")
    if name == "digits":
        pixels, labels = _digits(split, limit)
    else:
        pixels, labels = _tfds(find(name, data_dir), info, split, limit)
    return Dataset(_to_unit(pixels, info.largest), labels.astype(np.int32))


def find(name: str, data_dir: str | os.PathLike | None = None) -> Path | None:
    """The folder of a prepared TensorFlow dataset, its newest version; None for `digits`.

    Raises:
      ValueError: an unknown name.
      DataNotFoundError: it is not there.

    Example:
      >>> rt.data.find("digits") is None
      True
    """
    _info(name)
    if name == "digits":
        return None
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    root = root.expanduser()
    versions = [p.parent for p in (root / name).glob("*/dataset_info.json")]
    if not versions:
        raise DataNotFoundError(
            f"{name}: no prepared dataset in {(root / name).absolute()}; name the folder that "
            "has it with --data_dir or TFDS_DATA_DIR, or prepare it once where there is a network: "
            f"python -c \"import tensorflow_datasets as t; t.load('{name}', data_dir='{root}')\""
        )
    return max(versions, key=lambda p: [int(n) for n in p.name.split(".") if n.isdigit()])


def _info(name: str) -> Info:
    if name not in INFO:
        raise ValueError(f"name: expected one of {', '.join(NAMES)}, got {name!r}")
    return INFO[name]


def _to_unit(pixels: np.ndarray, largest: int) -> np.ndarray:
    """The one place where pixels get their range: 0 to `largest` becomes [0, 1], float32."""
    return pixels.astype(np.float32) / np.float32(largest)


def _digits(split: str, limit: int | None) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    raw = load_digits()
    train, test = train_test_split(
        np.arange(len(raw.target)), test_size=_DIGITS_TEST, stratify=raw.target, random_state=0
    )
    chosen = (train if split == "train" else test)[:limit]
    return raw.images[chosen][..., None], raw.target[chosen]


def _tfds(folder: Path, info: Info, split: str, limit: int | None) -> tuple[np.ndarray, np.ndarray]:
    import tensorflow as tf

    try:
        import tensorflow_datasets as tfds
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{folder}: reading it needs TensorFlow Datasets ({error}): pip install "
            "'robustra-tf[data]'"
        ) from error

    _check_features(folder / "features.json", info)
    part = split if limit is None else f"{split}[:{limit}]"
    config = tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1)
    try:
        # From the folder alone: looking a dataset up by name may ask the network for it first.
        encoded = tfds.builder_from_directory(folder).as_dataset(
            split=part,
            as_supervised=True,
            shuffle_files=False,
            read_config=config,
            decoders={"image": tfds.decode.SkipDecoding()},
        )
        first, _ = next(iter(encoded))
        decode = _decoder(first.numpy(), info.shape)
        decoded = encoded.map(lambda image, label: (decode(image), label), tf.data.AUTOTUNE)
        # More than there are, for one batch of all; at most so many for any folder.
        images, labels = next(iter(decoded.batch(getattr(info, split))))
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


# The library imports the classes that this file names: none but these.
_FEATURES = (
    "tensorflow_datasets.core.features.features_dict.FeaturesDict",
    "tensorflow_datasets.core.features.image_feature.Image",
    "tensorflow_datasets.core.features.class_label_feature.ClassLabel",
    "tensorflow_datasets.core.features.text_feature.Text",
)


def _check_features(path: Path, info: Info) -> None:
    """Refuses a description of other features than an image of the known shape and its label."""
    if not path.is_file():
        raise ValueError(f"{path}: expected the description of the features, found none")
    pending, found = [read_json(path)], []
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


_PNG = b"\x89PNG\r\n\x1a\n"


def _decoder(first: bytes, shape: tuple[int, int, int]) -> Callable[[tf.Tensor], tf.Tensor]:
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
