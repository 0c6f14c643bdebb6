"""Which axes were exchanged: what a table of positions says of how an array lies in another one."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]


class Turn(NamedTuple):
    """Numbers taken as an array `before`, their axes put in the order `order`."""

    before: Shape
    order: tuple[int, ...]


def positions(shape: Shape) -> np.ndarray:
    """The table of an array that lies as it is: 0, 1, ... in its shape."""
    return np.arange(int(np.prod(shape, dtype=np.int64))).reshape(shape)


def turn(wanted: np.ndarray, shape: Shape) -> Turn | None:
    """The exchange of axes that brings the numbers of an array of `shape` into the order `wanted`.

    Args:
      wanted: positions in the array, as many as it has.
      shape: of the array.
    """
    flat, target = wanted.ravel(), _long(wanted.shape)
    for order in itertools.permutations(range(len(target))):
        # As what is wanted has its axes, taken back.
        before = tuple(target[order.index(axis)] for axis in range(len(target)))
        if np.array_equal(positions(before).transpose(order).ravel(), flat):
            return Turn(before, order)
    before = _long(shape)
    for order in itertools.permutations(range(len(before))):
        if np.array_equal(positions(before).transpose(order).ravel(), flat):
            return Turn(before, order)
    return None


def _long(shape: Shape) -> Shape:
    """Without axes of one entry, which lie anywhere."""
    return tuple(size for size in shape if size != 1)


class Crop(NamedTuple):
    """Every `step`-th entry of an axis from `start` on, `count` of them."""

    axis: int
    start: int
    count: int
    step: int


def crops(flat: np.ndarray, shape: Shape) -> list[Crop] | None:
    """How positions are cut from an array of `shape` axis by axis; None where they are not."""
    found, total = [], 1
    for axis, entries in enumerate(np.unravel_index(flat, shape)):
        used = np.unique(entries)
        steps = np.unique(np.diff(used))
        if len(steps) > 1:
            return None
        total *= len(used)
        if len(used) < shape[axis]:
            found.append(Crop(axis, int(used[0]), len(used), int(steps[0]) if len(steps) else 1))
    return found if total == len(np.unique(flat)) else None
