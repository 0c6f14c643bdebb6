"""Rows on whole images, passed backward through convolutions without leaving their tiles.

A transposed convolution of stride s computes s x s tiles of its result at a time. To lay the tiles
out as an image moves every coefficient twice; the next convolution can read tiles as they are, as
more channels of a smaller image, if its kernel is written for tiles. Such a kernel holds zeros, so
which of the two is cheaper depends on the sizes, and is counted.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import tensorflow as tf

from robustra_tf.graph.spatial import Windowed
from robustra_tf.graph.spread import Pair, Tiling, as_pair, spread_tiles, tiled_kernel

#: Channels that a convolution computes at once: fewer take as long.
LANES = 16
#: Multiplications and additions in the time in which one coefficient is laid out in its place,
#: as measured on two cores.
MOVING = 100


def transpose(
    op: Windowed, weights: tuple[tf.Tensor, ...], tiles: tf.Tensor, tiling: Tiling
) -> tuple[tf.Tensor, Tiling]:
    """The transposed convolution of rows in tiles, itself left in tiles.

    Args:
      op, weights: the convolution.
      tiles: [k, *tiling.count, channels] on the output of `op`, zero beyond its image.
      tiling: how they are laid out.

    Returns:
      The tiles on the input of `op`, arbitrary beyond its image, and their layout.
    """
    kernel = op.kernel(weights, tiles.dtype)
    if joining_pays(op, tiling):
        return spread_tiles(tiling.join(tiles), kernel, *_plan(op, None))
    strides, origin, size = _plan(op, tiling)
    reach = _reach(op, tiling)
    shift = as_pair(_shift(o, n, s) for o, n, s in zip(origin, reach, strides, strict=True))
    kernel = tiled_kernel(kernel, op.strides, tiling.tile)
    kernel = tf.pad(kernel, (*((n, 0) for n in shift), (0, 0), (0, 0)))
    origin = as_pair(o + n for o, n in zip(origin, shift, strict=True))
    return spread_tiles(tiles, kernel, strides, origin, size)


def joining_pays(op: Windowed, tiling: Tiling) -> bool:
    """Whether laying the tiles out first takes less time than a convolution that reads tiles."""
    if tiling.plain:
        return True
    moved = 2 * math.prod(tiling.image) * op.filters
    return _work(op, None) + MOVING * moved <= _work(op, tiling)


class _Plan(NamedTuple):
    """Strides of the spread image, where the input's image begins in it, and that image's size."""

    strides: Pair
    origin: Pair
    size: Pair


def _plan(op: Windowed, tiling: Tiling | None) -> _Plan:
    begin, size = (op.padding[0][0], op.padding[1][0]), as_pair(op.shape[:2])
    if tiling is None:
        return _Plan(op.strides, begin, size)
    pairs = zip(op.strides, tiling.origin, begin, strict=True)
    origin = as_pair(s * o + p for s, o, p in pairs)
    strides = as_pair(s * t for s, t in zip(op.strides, tiling.tile, strict=True))
    return _Plan(strides, origin, size)


def _reach(op: Windowed, tiling: Tiling) -> Pair:
    """The size of the kernel that spreads a tile."""
    sizes = zip(tiling.tile, op.strides, op.size, strict=True)
    return as_pair((t - 1) * s + k for t, s, k in sizes)


def _shift(origin: int, reach: int, stride: int) -> int:
    """Zeros before the kernel that let tiles begin where the image does, if they are free."""
    shift = -origin % stride
    return shift if -(-(reach + shift) // stride) == -(-reach // stride) else 0


def _work(op: Windowed, tiling: Tiling | None) -> int:
    """Operations that the convolution of one row takes, idle lanes included."""
    strides, origin, size = _plan(op, tiling)
    reach, pixels = (op.size, 1) if tiling is None else (_reach(op, tiling), math.prod(tiling.tile))
    work = 2 * pixels * op.filters
    for n, o, k, s in zip(size, origin, reach, strides, strict=True):
        if tiling is not None:
            o += _shift(o, k, s)
        cells = (o + n - 1) // s - o // s + 1
        work *= cells * -(-k // s)
    outputs = math.prod(strides) * op.shape[2]
    return work * -(-outputs // LANES) * LANES
