"""Labelled images in [0, 1] and the pipeline that feeds them to training.

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

from robustra_tf.reading import read_json

if TYPE_CHECKING:
    import tensorflow as tf

_DIGITS_TEST = 360


class Augmentation(NamedTuple):
    """How images are changed at random without changing what they show."""

    shift: int  # pixels that an image moves by at most, along each axis
    mirrored: bool  # every other image is turned left to right


class Info(NamedTuple):
    """What is known of a dataset without reading it."""

    shape: tuple[int, int, int]
    classes: int
    train: int  # examples
    test: int
    largest: int  # the pixel value that stands for 1.0
    augmentation: Augmentation


INFO = {
    "digits": Info((8, 8, 1), 10, 1437, _DIGITS_TEST, 16, Augmentation(1, False)),
    "mnist": Info((28, 28, 1), 10, 60_000, 10_000, 255, Augmentation(2, False)),
    # Shifts by 4 pixels are the paper's crops.
    "cifar10": Info((32, 32, 3), 10, 50_000, 10_000, 255, Augmentation(4, True)),
}
NAMES = tuple(INFO)
SPLITS = ("train", "test")


class Dataset(NamedTuple):
    """Images float32 `[n, h, w, c]` in [0, 1] and their labels int32 `[n]`."""

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


def augmentation(name: str, wanted: bool) -> Augmentation | None:
    """How a dataset is augmented, where that is wanted.

    Raises:
      ValueError: an unknown name.
    """
    return _info(name).augmentation if wanted else None


def find(name: str, data_dir: str | os.PathLike | None = None) -> Path | None:
    """The folder of a prepared TensorFlow dataset, its newest version; None for `digits`.

    Raises:
      ValueError: an unknown name.
      DataNotFoundError: it is not there.
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
    import tensorflow_datasets as tfds

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


class TrainingBatches:
    """Shuffled batches of a dataset, any epoch of which can be made again exactly.

    The images are kept decoded; each epoch gathers them in an order drawn from (seed, epoch) and,
    after that cache, augments them by draws from (seed, epoch, step). The shapes are static: an
    epoch has `steps` full batches and leaves out the examples that do not fill another one (others
    in each epoch). A dataset smaller than one batch is one batch of its own size.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int,
        augmentation: Augmentation | None = None,
    ):
        """Keeps the images as a tensor.

        Args:
          dataset: images `[n, h, w, c]` in [0, 1] and labels `[n]`.
          batch_size: examples a step, at least 1.
          seed: of the order and of the augmentation, at least 0.
          augmentation: of every batch, as `augment` does it; None for none.

        Raises:
          ValueError: an empty dataset or a batch size below 1.
        """
        import tensorflow as tf

        count = len(dataset.labels)
        if count < 1:
            raise ValueError("dataset: expected at least one example, got none")
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        self.batch_size = min(batch_size, count)
        self.steps = count // self.batch_size
        self._count, self._seed, self._augmentation = count, seed, augmentation
        with tf.device("CPU"):
            self._images = tf.constant(dataset.images, tf.float32)
            self._labels = tf.constant(dataset.labels, tf.int32)

    def order(self, epoch: int) -> np.ndarray:
        """The indices of the epoch's examples, int64 `[steps, batch_size]`."""
        shuffled = np.random.default_rng([self._seed, epoch]).permutation(self._count)
        return shuffled[: self.steps * self.batch_size].reshape(self.steps, self.batch_size)

    def epoch(self, epoch: int, first_step: int = 0) -> tf.data.Dataset:
        """The batches of an epoch from `first_step` on.

        Args:
          epoch: counts passes through the data, from 0.
          first_step: where to begin, so that an interrupted epoch can go on.

        Returns:
          A `tf.data.Dataset` of (images float32 `[batch_size, h, w, c]` in [0, 1], labels int32
          `[batch_size]`).
        """
        import tensorflow as tf

        order = self.order(epoch)[first_step:]
        seed = tf.constant(np.random.SeedSequence([self._seed, epoch]).generate_state(2), tf.int64)

        def batch(step, indices):
            images, labels = tf.gather(self._images, indices), tf.gather(self._labels, indices)
            if self._augmentation is not None:
                drawn = tf.random.experimental.stateless_fold_in(seed, step)
                images = augment(images, drawn, *self._augmentation)
            return images, labels

        steps = np.arange(first_step, self.steps)
        batches = tf.data.Dataset.from_tensor_slices((steps, order))
        # The order of the batches is fixed whatever the number of threads that prepare them.
        batches = batches.map(batch, num_parallel_calls=2, deterministic=True)
        return batches.prefetch(2)


def augment(images: tf.Tensor, seed: tf.Tensor, shift: int, mirrored: bool) -> tf.Tensor:
    """Moves each image at random, by whole pixels, and mirrors it with probability 1/2.

    Args:
      images: `[n, h, w, c]`; values in [0, 1] stay there, what moves in is black.
      seed: integers `[2]`; equal seeds give equal images.
      shift: pixels at most, along each axis; all shifts are equally likely.
      mirrored: whether images may be mirrored.

    Returns:
      `[n, h, w, c]`.
    """
    import tensorflow as tf

    count = tf.shape(images)[0]
    height, width = images.shape[1:3]
    seeds = tf.random.split(seed, 2)
    if mirrored:
        turned = tf.random.stateless_uniform([count, 1, 1, 1], seeds[0]) < 0.5
        images = tf.where(turned, tf.reverse(images, axis=[2]), images)

    corners = tf.random.stateless_uniform([count, 2], seeds[1], 0, 2 * shift + 1, tf.int32)
    padded = tf.pad(images, [[0, 0], [shift, shift], [shift, shift], [0, 0]])
    rows = corners[:, :1] + tf.range(height)
    columns = corners[:, 1:] + tf.range(width)
    padded = tf.gather(padded, rows, axis=1, batch_dims=1)
    return tf.gather(padded, columns, axis=2, batch_dims=1)
