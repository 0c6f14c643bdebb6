"""Rows in tiles: laid out and back, and passed through convolutions without being joined."""

import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf

from robustra_tf.bounds import tiled
from robustra_tf.graph import spread
from robustra_tf.graph.convolutions import Conv2D
from robustra_tf.graph.spatial import Pool2D
from robustra_tf.graph.spread import Tiling, correlated, spread_tiles

LAYERS = [
    Conv2D((7, 7, 3), 4, (4, 4), (2, 2), ((1, 1), (1, 1))),
    Conv2D((6, 8, 2), 3, (3, 3), (1, 1), ((1, 1), (1, 1))),
    Conv2D((9, 7, 1), 2, (3, 2), (3, 2), ((0, 0), (0, 1))),
    Conv2D((8, 8, 2), 20, (2, 2), (2, 2), ((0, 0), (0, 0))),
    Pool2D((6, 6, 3), (2, 2), (2, 2)),
]
TILINGS = [((1, 1), (0, 0)), ((2, 2), (0, 0)), ((2, 2), (1, 1)), ((2, 3), (1, 2)), ((4, 4), (3, 1))]


def tiling_of(image, tile, origin):
    count = tuple(-(-(n + o) // t) for n, o, t in zip(image, origin, tile, strict=True))
    return Tiling(image, tile, origin, count)


def weights_of(op, rng):
    return tuple(tf.constant(rng.normal(size=shape)) for shape in op.weight_shapes)


@pytest.mark.parametrize(("tile", "origin"), TILINGS)
def test_joining_undoes_cutting_and_what_lies_beyond_is_zero(tile, origin):
    images = np.random.default_rng(0).uniform(1.0, 2.0, (2, 5, 7, 3))
    tiling = tiling_of((5, 7), tile, origin)
    tiles = tiling.cut(tf.constant(images))
    assert tuple(tiles.shape) == (2, *tiling.count, math.prod(tile) * 3)
    np.testing.assert_array_equal(tiling.join(tiles), images)
    assert np.count_nonzero(tiles) == images.size
    # Pixel (r, s) of tile (m, k), as the definition has it.
    m, k, r, s = (0, 1, tile[0] - 1, 0)
    row, column = tile[0] * m + r - origin[0], tile[1] * k + s - origin[1]
    if 0 <= row < 5 and 0 <= column < 7:
        pixel = tiles.numpy()[:, m, k].reshape(2, *tile, 3)[:, r, s]
        np.testing.assert_array_equal(pixel, images[:, row, column])


@pytest.mark.parametrize("join", [True, False])
@pytest.mark.parametrize(("tile", "origin"), TILINGS)
@pytest.mark.parametrize("op", LAYERS, ids=lambda op: f"{type(op).__name__}{op.size}{op.strides}")
def test_tiles_pass_a_convolution_as_images_do(op, tile, origin, join, monkeypatch):
    rng = np.random.default_rng(1)
    weights, rows = weights_of(op, rng), tf.constant(rng.normal(size=(2, *op.out_shape)))
    tiling = tiling_of(op.out_shape[:2], tile, origin)
    monkeypatch.setattr(tiled, "joining_pays", lambda *_: join)
    tiles, after = tiled.transpose(op, weights, tiling.cut(rows), tiling)
    matrix = op.as_matrix(*weights, dtype=tf.float64).numpy()
    expected = (rows.numpy().reshape(2, -1) @ matrix).reshape(2, *op.in_shape)
    np.testing.assert_allclose(after.join(tiles), expected, atol=1e-12)
    grown = op.strides if join else tuple(np.multiply(op.strides, tile))
    assert after.tile == grown


def test_tiles_begin_where_the_image_does_where_that_is_free():
    # Two convolutions of stride 2: the second's tiles of 4 x 4 cover 28 x 28 pixels exactly.
    first = Conv2D((28, 28, 1), 16, (4, 4), (2, 2), ((1, 1), (1, 1)))
    rng = np.random.default_rng(2)
    rows = tf.constant(rng.normal(size=(1, 7, 7, 32)))
    kernel = tf.constant(rng.normal(size=(4, 4, 16, 32)))
    tiles, tiling = spread_tiles(rows, kernel, (2, 2), (1, 1), (14, 14))
    assert not tiling.fits
    assert not tiled.joining_pays(first, tiling)
    _, tiling = tiled.transpose(first, weights_of(first, rng), tiles, tiling)
    assert tiling.fits
    assert (tiling.tile, tiling.count) == ((4, 4), (7, 7))


def test_the_choice_follows_the_count():
    # Many channels to many: zeros of the tiled kernel cost more than laying the tiles out.
    wide = Conv2D((14, 14, 64), 64, (3, 3), (1, 1), ((1, 1), (1, 1)))
    narrow = Conv2D((14, 14, 1), 8, (3, 3), (1, 1), ((1, 1), (1, 1)))
    tiling = tiling_of((14, 14), (2, 2), (1, 1))
    assert tiled.joining_pays(wide, tiling)
    assert not tiled.joining_pays(narrow, tiling)
    assert tiled.joining_pays(narrow, tiling_of((14, 14), (1, 1), (0, 0)))


@pytest.mark.parametrize("channels", [3, 16, 40])
@pytest.mark.parametrize(("tile", "origin"), TILINGS)
@pytest.mark.parametrize("op", LAYERS[:4], ids=lambda op: f"{op.size}{op.strides}")
def test_the_work_that_is_counted_is_done(op, tile, origin, channels, monkeypatch):
    """A multiplication and an addition for every number of the kernel at every place."""
    op = dataclasses.replace(op, shape=(*op.shape[:2], channels))
    rng, tiling = np.random.default_rng(3), tiling_of(op.out_shape[:2], tile, origin)
    weights, rows = weights_of(op, rng), tf.constant(rng.normal(size=(1, *op.out_shape)))
    done = []

    def counted(y, taps, padding):
        found = correlated(y, taps, padding)
        lanes = -(-taps.shape[3] // tiled.LANES) * tiled.LANES
        done.append(2 * math.prod(found.shape[1:3]) * math.prod(taps.shape[:3]) * lanes)
        return found

    monkeypatch.setattr(spread, "correlated", counted)
    for join, layout in ((True, None), (False, tiling)):
        monkeypatch.setattr(tiled, "joining_pays", lambda *_, join=join: join)
        tiled.transpose(op, weights, tiling.cut(rows), tiling)
        # The last convolution is that of the rows, behind what makes a kernel for tiles.
        assert done[-1] == tiled._work(op, layout)
