"""Rows of the dual network: the coefficients of some neurons on an earlier layer.

Two kinds hold them. `WindowRows` keeps, for a neuron of a convolutional layer, only the window that
it depends on; `WholeRows` keeps a coefficient for every entry of the layer. Leading axes say whose
rows they are; a frame gives those axes their meaning.
"""

from __future__ import annotations

import dataclasses
import math

import tensorflow as tf

from robustra_tf.bounds.window import Window
from robustra_tf.graph.spread import Tiling


@dataclasses.dataclass(frozen=True)
class WholeRows:
    """Coefficients on all of a layer: `values` [*lead, *shape], `shape` the layer's.

    On an image they may be laid out in tiles, [*lead, *tiling.count, pixels * channels]; `clean`
    says that coefficients of tiles beyond the image are known to be zero.
    """

    values: tf.Tensor
    shape: tuple[int, ...]
    tiling: Tiling | None = None
    clean: bool = True

    def with_values(self, values: tf.Tensor, clean: bool | None = None) -> WholeRows:
        """The same kind of rows with other coefficients."""
        return dataclasses.replace(
            self, values=values, clean=self.clean if clean is None else clean
        )

    @property
    def trailing(self) -> tuple[int, ...]:
        """The axes that hold one row."""
        if self.tiling is None:
            return self.shape
        return (*self.tiling.count, math.prod(self.tiling.tile) * self.shape[-1])

    @property
    def flat(self) -> tf.Tensor:
        """[*lead, prod(trailing)]."""
        return regroup(self.values, len(self.trailing), (math.prod(self.trailing),))

    @property
    def joined(self) -> WholeRows:
        """The same rows, not in tiles."""
        if self.tiling is None:
            return self
        values = split(self.tiling.join(merged(self.values, 3)), self.values, 3)
        return WholeRows(values, self.shape)


@dataclasses.dataclass(frozen=True)
class WindowRows:
    """Coefficients on one window per row: `values` [*lead, kh, kw, channels].

    `clean` says that coefficients outside the image are known to be zero. `strips`, where given,
    are the same values before some pixel rows at a time, [*lead, rows, kw, channels], were joined:
    whoever takes these leaves the joining undone.
    """

    values: tf.Tensor
    window: Window
    clean: bool = True
    strips: tuple[tf.Tensor, ...] = ()

    def with_values(self, values: tf.Tensor, clean: bool | None = None) -> WindowRows:
        """The same windows with other coefficients."""
        return dataclasses.replace(
            self, values=values, clean=self.clean if clean is None else clean, strips=()
        )

    @property
    def flat(self) -> tf.Tensor:
        """[*lead, kh * kw * channels]."""
        return regroup(self.values, 3, (math.prod(self.values.shape[-3:]),))


Rows = WholeRows | WindowRows


def regroup(values: tf.Tensor, trailing: int, shape: tuple[int, ...]) -> tf.Tensor:
    """Reshape the last `trailing` axes to `shape`, whatever stands before them."""
    return _with_leading(values, values, values.shape.rank - trailing, shape)


def merged(values: tf.Tensor, trailing: int) -> tf.Tensor:
    """All leading axes in one: [prod(lead), *the last `trailing` axes]."""
    return tf.reshape(values, (-1, *values.shape[values.shape.rank - trailing :]))


def split(values: tf.Tensor, like: tf.Tensor, trailing: int) -> tf.Tensor:
    """Undo `merged`: the leading axes of `like` (whose last `trailing` axes are dropped)."""
    return _with_leading(values, like, like.shape.rank - trailing, values.shape[1:])


def _with_leading(
    values: tf.Tensor, like: tf.Tensor, count: int, rest: tuple[int, ...]
) -> tf.Tensor:
    """`values` in the shape of the first `count` axes of `like`, then `rest`."""
    shape = (*like.shape[:count], *rest)
    if shape.count(None) < 2 and 0 not in shape:
        # One operation instead of the eight that put a dynamic shape together.
        return tf.reshape(values, [-1 if size is None else size for size in shape])
    result = tf.reshape(values, tf.concat([tf.shape(like)[:count], rest], 0))
    result.set_shape(shape)
    return result
