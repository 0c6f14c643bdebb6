"""Folders of images, one for each class: PNG or JPEG of 8 bits, all of one size."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from robustra_tf.data.examples import LARGEST

_SUFFIXES = (".png", ".jpg", ".jpeg")
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
#: Channels by PNG's kind of colour: grey, colour, and colour by a palette.
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3}
#: JPEG's markers without a length; those of a frame are C0 to CF but for three.
_BARE, _NO_FRAME = {0x01, *range(0xD0, 0xD8)}, {0xC4, 0xC8, 0xCC}


class Found(NamedTuple):
    """The images of a folder: the names of the classes, the files, their labels, the shape."""

    classes: tuple[str, ...]
    paths: list[Path]
    labels: list[int]
    shape: tuple[int, int, int]


def scan(folder: Path) -> Found:
    """The images that a folder has, an image of each class in turn.

    Raises:
      ValueError: fewer than two classes, no images, or other files among them.
    """
    classes = sorted(path for path in folder.iterdir() if _shown(path) and path.is_dir())
    loose = [path.name for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES]
    names = tuple(path.name for path in classes)
    if len(classes) < 2 or loose:
        there = ", ".join([*names, *sorted(loose)][:5]) or "nothing"
        raise ValueError(
            f"{folder}: expected a folder of images for each of two classes or more, got {there}"
        )
    ranked = [
        (place, label, path)
        for label, one in enumerate(classes)
        for place, path in enumerate(sorted(filter(_shown, one.iterdir())))
    ]
    for _, _, path in ranked:
        if path.suffix.lower() not in _SUFFIXES or not path.is_file():
            raise ValueError(f"{path}: expected PNG or JPEG images alone beside each other")
    if not ranked:
        raise ValueError(f"{folder}: expected images in {', '.join(names[:5])}, got none")
    ranked.sort()
    paths = [path for _, _, path in ranked]
    shape = shape_of(paths[0])
    if len(paths) * math.prod(shape) > LARGEST:
        raise ValueError(f"{folder}: expected at most {LARGEST} bytes of images, got more")
    return Found(names, paths, [label for _, label, _ in ranked], shape)


def read(folder: Path, limit: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The first images, uint8 [n, h, w, c], and their labels int32 [n]; raises as `scan`."""
    import tensorflow as tf

    found = scan(folder)
    paths = found.paths[:limit]
    images = np.empty((len(paths), *found.shape), np.uint8)
    for image, path in zip(images, paths, strict=True):
        if (shape := shape_of(path)) != found.shape:
            raise ValueError(f"{path}: expected an image of {found.shape} as others, got {shape}")
        try:
            decoded = tf.io.decode_image(path.read_bytes(), shape[-1], expand_animations=False)
            image[:] = decoded.numpy()
        except (tf.errors.OpError, ValueError) as error:
            first = str(error).strip().partition("\n")[0]
            raise ValueError(f"{path}: cannot be read: {first}") from error
    return images, np.array(found.labels[: len(paths)], np.int32)


def shape_of(path: Path) -> tuple[int, int, int]:
    """The height, the width and the channels that an image's header gives.

    Raises:
      ValueError: no PNG or JPEG of 8 bits, or one with transparency.
    """
    content = path.read_bytes()
    try:
        if content.startswith(_PNG):
            width, height, bits, colour = struct.unpack(">II2B", content[16:26])
            shape = (height, width, _PNG_CHANNELS[colour] if bits <= 8 else 0)
        else:
            shape = _jpeg_shape(content)
    except (struct.error, IndexError, KeyError):
        shape = (0, 0, 0)
    if min(shape) < 1 or shape[2] not in (1, 3):
        raise ValueError(f"{path}: expected a PNG or JPEG of 8 bits without transparency")
    return shape


def _jpeg_shape(content: bytes) -> tuple[int, int, int]:
    """What a JPEG's frame says, which stands behind segments that say how long they are."""
    place = 2 if content.startswith(_JPEG) else len(content)
    while True:
        kind = content[place + 1]
        if content[place] != 0xFF:
            return 0, 0, 0
        if 0xC0 <= kind <= 0xCF and kind not in _NO_FRAME:
            bits, height, width, channels = struct.unpack(">BHHB", content[place + 4 : place + 10])
            return height, width, channels if bits == 8 else 0
        bare = kind in _BARE
        place += 2 if bare else 2 + struct.unpack(">H", content[place + 2 : place + 4])[0]


def _shown(path: Path) -> bool:
    return not path.name.startswith(".")
