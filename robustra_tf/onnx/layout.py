"""Which axes were exchanged: what a table of positions says of how an array lies in another one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]
#: Axes of more than one entry whose orders are tried.
MOST_AXES = 6


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
    flat, target, own = wanted.ravel(), _long(wanted.shape), _long(shape)
    natural = np.arange(flat.size)
    for before, order in itertools.chain(_turns_to(target), _turns_of(own)):
        found = natural.reshape(before).transpose(order)
        # Few orders begin alike: the rest is compared of those only.
        if np.array_equal(found.flat[:64], flat[:64]) and np.array_equal(found.ravel(), flat):
            return Turn(before, order)
    return None


def _turns_of(before: Shape) -> Iterator[tuple[Shape, tuple[int, ...]]]:
    """All orders of an array's axes; none where they would be too many."""
    if len(before) <= MOST_AXES:
        for order in itertools.permutations(range(len(before))):
            yield before, order


def _turns_to(after: Shape) -> Iterator[tuple[Shape, tuple[int, ...]]]:
    """All that end in an array's axes."""
    for _, order in _turns_of(after):
        yield tuple(after[order.index(axis)] for axis in range(len(after))), order


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
