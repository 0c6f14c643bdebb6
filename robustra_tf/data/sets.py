"""Data sets by name: scikit-learn's digits, and folders of TensorFlow Datasets."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from robustra_tf.data import tfds
from robustra_tf.data.examples import DataNotFoundError, Dataset, Info, check_request, to_unit

_DIGITS_TEST = 360
#: What is known without a folder.
INFO = {
    "digits": Info((8, 8, 1), 10, {"train": 1437, "test": _DIGITS_TEST}, 16),
    "mnist": Info((28, 28, 1), 10, {"train": 60_000, "test": 10_000}, 255),
    "cifar10": Info((32, 32, 3), 10, {"train": 50_000, "test": 10_000}, 255),
}
NAMES = tuple(INFO)
SPLITS = ("train", "test")
# Of a data set, or of one of its configurations: no way to another folder.
_NAME = re.compile(r"\w+(/\w[\w.-]*)?", re.ASCII)
_LISTED = 20


def load(
    name: str, split: str, limit: int | None = None, data_dir: str | os.PathLike | None = None
) -> Dataset:
    """The first `limit` examples of a split, in an order that never changes.

    Args:
      name: "digits", or a data set of images with a prepared folder, such as "mnist", "cifar10",
        "fashion_mnist" or "svhn_cropped".
      split: "train", "test" or another one that it has.
      limit: how many examples at most; None means all.
      data_dir: TensorFlow Datasets' folder; None means TFDS_DATA_DIR, or else its default,
        ~/tensorflow_datasets. `digits` needs none.

    Returns:
      A `Dataset`: images float32 `[n, h, w, c]` in [0, 1], labels int32 `[n]`.

    Raises:
      ValueError: an unknown split, a limit below 1, or a folder that is damaged or is not of images
        of one size and their classes.
      DataNotFoundError: the folder does not hold the dataset; the text says what it does hold.

    Example:
      >>> rt.data.load("digits", "train").images.shape
      (1437, 8, 8, 1)
    """
    info = describe(name, data_dir)
    check_request(info, split, limit)
    if name == "digits":
        pixels, labels = _digits(split, limit)
    else:
        pixels, labels = tfds.read(_folder(name, data_dir), info, split, limit)
    return Dataset(to_unit(pixels, info.largest), labels.astype(np.int32))


def describe(name: str, data_dir: str | os.PathLike | None = None) -> Info:
    """What is known of a data set; raises as `load` does, for all but its examples.

    Example:
      >>> rt.data.describe("digits").classes
      10
    """
    return INFO.get(name) or tfds.describe(_folder(name, data_dir))


def find(name: str, data_dir: str | os.PathLike | None = None) -> Path | None:
    """The folder of a prepared TensorFlow dataset, its newest version; None for `digits`.

    Raises:
      ValueError: no name of a data set.
      DataNotFoundError: it is not there.

    Example:
      >>> rt.data.find("digits") is None
      True
    """
    return None if name == "digits" else _folder(name, data_dir)


def _folder(name: str, data_dir: str | os.PathLike | None) -> Path:
    """`find`, of anything but `digits`."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"name: expected that of a data set, such as mnist, got {name!r}")
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    root = root.expanduser()
    versions = [p.parent for p in (root / name).glob("*/dataset_info.json")]
    if not versions:
        raise DataNotFoundError(
            f"{name}: no prepared dataset in {(root / name).absolute()} ({_there(root)}); name the "
            "folder that has it with --data_dir or TFDS_DATA_DIR, or prepare it once where there "
            "is a network: "
            f"python -c \"import tensorflow_datasets as t; t.load('{name}', data_dir='{root}')\""
        )
    return max(versions, key=lambda p: [int(n) for n in p.name.split(".") if n.isdigit()])


def _there(root: Path) -> str:
    """The data sets that a folder has, in words."""
    found = [*root.glob("*/*/dataset_info.json"), *root.glob("*/*/*/dataset_info.json")]
    names = sorted({path.parents[1].relative_to(root).as_posix() for path in found})
    more = ["..."] if len(names) > _LISTED else []
    return f"there are {', '.join(['digits', *names[:_LISTED], *more])}"


def _digits(split: str, limit: int | None) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    raw = load_digits()
    train, test = train_test_split(
        np.arange(len(raw.target)), test_size=_DIGITS_TEST, stratify=raw.target, random_state=0
    )
    chosen = (train if split == "train" else test)[:limit]
    return raw.images[chosen][..., None], raw.target[chosen]
