"""Examples of one's own: `.npz` archives, and folders of images with a folder for each class."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from robustra_tf.data import folders
from robustra_tf.data.examples import LARGEST, Dataset, Info, check_request, to_unit
from robustra_tf.storage.reading import Field, Header, read_arrays, read_headers

#: The one part of examples that are not divided.
GIVEN = "given"
_PARTS = ("train", "test")
_MOST_CLASSES = 2**20


def read(
    path: str | os.PathLike,
    split: str = GIVEN,
    limit: int | None = None,
    scale: float | None = None,
) -> Dataset:
    """The first examples of a file or folder, in an order that never changes.

    Args:
      path: an `.npz` archive with `x` [n, *shape] and `y` [n], or with `x_train`, `y_train`,
        `x_test` and `y_test`; or a folder with a folder of PNG or JPEG images of one size for each
        class, or with such folders under `train` and `test`. Classes are numbered by their names;
        the order is by name too, an image of each class in turn.
      split: "given", or "train" or "test" of an archive or folder that is so divided.
      limit: how many examples at most; None means all.
      scale: what an archive's pixels are divided by, such as 255; None where they lie in [0, 1]. A
        folder's have 8 bits, and are divided by 255.

    Raises:
      FileNotFoundError: there is no such file or folder.
      ValueError: it is damaged or not of this form, or has pixels or labels of another kind; one
        line that names the file and what is wrong.

    Example:
      >>> np.savez("mine.npz", x=np.full((3, 8, 8, 1), 51, "uint8"), y=[0, 1, 1])
      >>> images, labels = rt.data.read("mine.npz", scale=255)
      >>> images.shape, round(float(images.max()), 2), labels.tolist()
      ((3, 8, 8, 1), 0.2, [0, 1, 1])
    """
    path = Path(path)
    info = describe(path)
    check_request(info, split, limit)
    if path.is_dir():
        if scale not in (None, info.largest):
            raise ValueError(f"scale: expected 255 for a folder of images, got {scale:g}")
        pixels, labels = folders.read(part(path, split), limit)
        return Dataset(to_unit(pixels, info.largest), labels)
    x, y = _names(split)
    found = read_arrays(path, {x: Field("fiu", None), y: Field("iu", 1)}, LARGEST)
    return _checked(path, Dataset(found[x][:limit], found[y][:limit]), scale)


def describe(path: Path) -> Info:
    """What is known of a file or folder before its images are read; raises as `read` does."""
    if path.is_dir():
        parts = {name: folders.scan(part(path, name)) for name in _divided(path)}
        shapes = {found.shape for found in parts.values()}
        if len(shapes) > 1 or len({found.classes for found in parts.values()}) > 1:
            raise ValueError(f"{path}: expected the same classes and sizes in {', '.join(parts)}")
        found = next(iter(parts.values()))
        counts = {name: len(one.paths) for name, one in parts.items()}
        return Info(found.shape, len(found.classes), counts, 255)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder")
    if path.suffix != ".npz":
        raise ValueError(
            f"{path}: expected an .npz file or a folder of images by class, got {path.suffix!r}"
        )
    headers = read_headers(path)
    splits = [GIVEN] if "x" in headers or "y" in headers else [*_PARTS]
    splits = [split for split in splits if {*_names(split)} <= headers.keys()]
    if not splits:
        raise ValueError(
            f"{path}: expected the fields x and y (or x_train, y_train, x_test, y_test), got "
            f"{', '.join(headers) or 'none'}"
        )
    return _described(path, headers, splits)


def part(path: Path, split: str) -> Path:
    """The folder of a split of a folder."""
    return path if split == GIVEN else path / split


def _described(path: Path, headers: dict[str, Header], splits: list[str]) -> Info:
    fields = {y: Field("iu", 1) for _, y in map(_names, splits)}
    labels = read_arrays(path, fields, LARGEST)
    counts = {split: _count(path, split, headers, labels) for split in splits}
    shapes = {headers[_names(split)[0]].shape[1:] for split in splits}
    if len(shapes) > 1:
        raise ValueError(f"{path}: expected images of one shape, got {sorted(shapes)}")
    classes = 1 + max(int(array.max()) for array in labels.values())
    return Info(shapes.pop(), classes, counts, 1.0)


def _count(
    path: Path, split: str, headers: Mapping[str, Header], labels: Mapping[str, np.ndarray]
) -> int:
    """How many examples a split has, whose images and labels go together."""
    x, y = _names(split)
    count, *shape = headers[x].shape or (0,)
    if not shape or not all(shape):
        raise ValueError(
            f"{path}: {x}: expected images [n, height, width, channels], got {headers[x].shape}"
        )
    if len(labels[y]) != count:
        raise ValueError(f"{path}: {x} has {count} images, {y} {len(labels[y])} labels")
    if not count:
        raise ValueError(f"{path}: {x}: expected at least one image, got none")
    for label in (int(labels[y].min()), int(labels[y].max())):
        if not 0 <= label < _MOST_CLASSES:
            wanted = f"classes from 0 on, fewer than {_MOST_CLASSES}"
            raise ValueError(f"{path}: {y}: expected {wanted}, got {label}")
    return count


def _names(split: str) -> tuple[str, str]:
    """The fields of the images and of the labels."""
    return ("x", "y") if split == GIVEN else (f"x_{split}", f"y_{split}")


def _divided(path: Path) -> list[str]:
    """The parts that a folder has."""
    return [name for name in _PARTS if (path / name).is_dir()] or [GIVEN]


def _checked(path: Path, found: Dataset, scale: float | None) -> Dataset:
    """Pixels in [0, 1]: finite, and divided by what was said and nothing else."""
    images, labels = found
    finite = np.isfinite(images).reshape(len(images), -1).all(axis=1)
    if not finite.all():
        raise ValueError(f"{path}: x: image {finite.argmin()} has pixels that are no numbers")
    least, largest = images.min(), images.max()
    pixels = f"{images.dtype} from {least:g} to {largest:g}"
    if scale is None:
        if images.dtype.kind != "f" or least < 0 or largest > 1:
            white = next((one for one in (1, 255, 65535) if largest <= one), None)
            way = f"; --scale={white} divides them by {white}" if least >= 0 and white else ""
            raise ValueError(f"{path}: x: expected floats in [0, 1], got {pixels}{way}")
        return Dataset(images.astype(np.float32), labels.astype(np.int32))
    if least < 0 or largest > scale:
        raise ValueError(f"{path}: x: expected values from 0 to {scale:g} (--scale), got {pixels}")
    if largest <= 1 < scale and (images % 1).any():
        raise ValueError(f"{path}: x: expected no --scale for values in [0, 1], got {scale:g}")
    return Dataset(to_unit(images, scale), labels.astype(np.int32))
