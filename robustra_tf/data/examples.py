"""What examples are, and what is known of them before they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

#: Bytes of the images of one data set, as they are stored.
LARGEST = 2**32
#: What examples are held out by: one for all, that what is chosen by them is comparable.
_HELD_OUT = 20190810


class Info(NamedTuple):
    """What is known of examples without reading them.

    Attributes:
      shape: of one image.
      classes: how many; of a file of one's own, as many as its labels name.
      splits: how many examples each part has.
      largest: the pixel value that stands for 1.0.

    Example:
      >>> rt.data.INFO["digits"].shape, rt.data.INFO["digits"].splits["test"]
      ((8, 8, 1), 360)
    """

    shape: tuple[int, ...]
    classes: int
    splits: Mapping[str, int]
    largest: float


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


def held_out(examples: Dataset, count: int) -> tuple[Dataset, Dataset]:
    """Those that are trained on, in their order, and `count` that are held out.

    Which ones depends on nothing but the two numbers.

    Args:
      examples: more than `count`.
      count: at least 1.

    Raises:
      ValueError: a count out of its range.

    Example:
      >>> train, held = rt.data.held_out(rt.data.load("digits", "train"), 100)
      >>> len(train.labels), len(held.labels)
      (1337, 100)
    """
    total = len(examples.labels)
    if not 1 <= count < total:
        wanted = f"at least 1 and below the {total} examples"
        raise ValueError(f"count must be {wanted}, got {count!r}")
    drawn = np.random.default_rng(_HELD_OUT).permutation(total)
    kept, held = (np.sort(part) for part in (drawn[count:], drawn[:count]))
    train, validation = (Dataset(*(array[part] for array in examples)) for part in (kept, held))
    return train, validation


def to_unit(pixels: np.ndarray, largest: float) -> np.ndarray:
    """The one place where pixels get their range: 0 to `largest` becomes [0, 1], float32."""
    return pixels.astype(np.float32) / np.float32(largest)


def check_request(info: Info, split: str, limit: int | None) -> None:
    """Refuses (`ValueError`) a split that there is none of, or a limit below 1."""
    if split not in info.splits:
        raise ValueError(f"split: expected one of {', '.join(info.splits)}, got {split!r}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit: expected None or at least 1, got {limit}")
