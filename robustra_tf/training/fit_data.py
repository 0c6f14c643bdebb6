"""The batches of Keras's `fit`: checked while they pass, inside `tf.data` and compiled steps too.

What is known when a step is traced (types, shapes) is refused there. Values are checked by an
assertion in the step, one look at every pixel; TensorFlow's error around it is turned into one
`ValueError` by `refusing`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from robustra_tf.bounds.balls import Box, inside
from robustra_tf.graph.graph import Structure

#: What a refusal stands between, in whatever TensorFlow puts around it.
_BEGIN, _END = "<refused>", "</refused>"

_NO_INTEGERS = "y must be integer labels, got {}"

#: Axes of weights after the first: none, or one of a single entry.
_SINGLE = ([], [1], [None])


class Examples(NamedTuple):
    """A batch of `fit` or `evaluate`, checked.

    Attributes:
      x: images, float32 [n, *input_shape].
      y: labels, int32 [n].
      given: labels as they came, for Keras's metrics.
      importance: weights of the examples, float32 [n], or None.
    """

    x: tf.Tensor
    y: tf.Tensor
    given: tf.Tensor
    importance: tf.Tensor | None


def batch(data: Any, structure: Structure, box: Box) -> Examples:
    """The examples of a batch, checked.

    Args:
      data: what Keras gives a step.
      structure: of the network.
      box: that all pixels keep to.

    Raises:
      ValueError: images or labels missing, of another kind or another shape, or weights that are
        not one number for each example. Of values, `tf.errors.InvalidArgumentError` as `refusing`
        reads it: pixels outside the box or not finite, labels that are no class, rows that are not
        one-hot, weights that are negative or not finite.
    """
    x, given, weight = keras.utils.unpack_x_y_sample_weight(data)
    x = _images(x, structure.input_shape, box)
    y = _labels(given, structure.output_shape[0])
    checks = [
        y,
        _require(
            tf.equal(tf.shape(x)[0], tf.size(y)),
            "y must have a label for each image, got {} images and {} labels",
            *(tf.shape(x)[0], tf.size(y)),
        ),
        *_pixels(x, box),
    ]
    if weight is not None:
        weight = _weights(weight)
        checks += [
            _require(
                tf.equal(tf.size(weight), tf.size(y)),
                "sample_weight must be one for each image, got {} images and {} weights",
                *(tf.size(y), tf.size(weight)),
            ),
            _require(
                tf.reduce_all(tf.logical_and(weight >= 0, tf.math.is_finite(weight))),
                "sample_weight must be finite and at least 0, got values in [{}, {}] or NaN",
                *(tf.reduce_min(weight), tf.reduce_max(weight)),
            ),
        ]
    # Nothing that uses them may run before: an update could not be taken back.
    with tf.control_dependencies(checks):
        weight = weight if weight is None else tf.identity(weight)
        return Examples(tf.identity(x), tf.identity(y), tf.identity(given), weight)


def _images(x: Any, shape: tuple[int, ...], box: Box) -> tf.Tensor:
    """Images float32 [n, *shape], whose sizes the step checks where they are not known before."""
    low, high = box
    if not (tf.is_tensor(x) and x.dtype.is_floating):
        raise ValueError(f"x must be one tensor of floating-point pixels in [{low:g}, {high:g}]")
    expected = f"x must have shape [n, {', '.join(map(str, shape))}], got "
    if not x.shape.is_compatible_with((None, *shape)):
        raise ValueError(f"{expected}{x.shape}")
    x = tf.cast(x, tf.float32)
    size = tf.shape(x)
    known = tf.equal(tf.size(size), 1 + len(shape))
    fits = tf.cond(known, lambda: tf.reduce_all(size[1:] == [*shape]), lambda: False)
    with tf.control_dependencies([_require(fits, f"{expected}{{}}", size)]):
        return tf.ensure_shape(tf.identity(x), (None, *shape))


def _pixels(x: tf.Tensor, box: Box) -> list[tf.Tensor]:
    """The checks of pixels."""
    low, high = box
    return [
        _require(tf.reduce_all(tf.math.is_finite(x)), "x must be finite, got NaN or infinity"),
        _require(
            tf.reduce_all(inside(x, box)),
            f"x must lie in the box [{low:g}, {high:g}], got values in [{{}}, {{}}]: pixels, "
            "neither standardised nor in 0..255",
            *(tf.reduce_min(x), tf.reduce_max(x)),
        ),
    ]


def _labels(y: Any, classes: int) -> tf.Tensor:
    """Labels int32 [n], of integers or of one-hot rows, checked."""
    expected = (
        "y must be one integer label per image, of shape [n] or [n, 1], or one-hot rows "
        f"[n, {classes}], got "
    )
    rows = tf.TensorShape((None, classes))
    shapes = (tf.TensorShape((None,)), tf.TensorShape((None, 1)), rows)
    if not tf.is_tensor(y) or not any(map(y.shape.is_compatible_with, shapes)):
        raise ValueError(f"{expected}{getattr(y, 'shape', None)}")
    if not (y.dtype.is_floating or y.dtype.is_integer or y.dtype.is_bool):
        raise ValueError(f"y must be integer labels or one-hot rows, got {y.dtype.name}")
    if not y.shape.is_compatible_with(rows):
        if not y.dtype.is_integer:
            raise ValueError(_NO_INTEGERS.format(y.dtype.name))
        return _integers(y, classes)
    if y.shape.rank == 2 and y.shape[1] == classes:
        return _one_hot(y)
    return _either(y, classes, expected)


def _either(y: tf.Tensor, classes: int, expected: str) -> tf.Tensor:
    """Labels int32 [n], told apart in the step.

    Steps for data of several shapes are traced for shapes, or ranks, that are not known.
    """
    rank, width = tf.rank(y), tf.reduce_prod(tf.shape(y)[1:])
    flat = (rank == 1) | ((rank == 2) & (width == 1))
    rows = (rank == 2) & (width == classes)

    def integers() -> tf.Tensor:
        told = [_require(flat, f"{expected}{{}}", tf.shape(y))]
        given = y
        if not y.dtype.is_integer:
            told += [_require(tf.constant(False), _NO_INTEGERS.format(y.dtype.name))]
            given = tf.cast(y, tf.int64)
        with tf.control_dependencies(told):
            return _integers(tf.identity(given), classes)

    return tf.cond(rows, lambda: _one_hot(tf.reshape(y, (-1, classes))), integers)


def _integers(y: tf.Tensor, classes: int) -> tf.Tensor:
    """Labels int32 [n] of integers, each of them a class."""
    y = tf.reshape(y, (-1,))
    # No type is wider: what of uint64 does not fit comes out below 0.
    wide = tf.cast(y, tf.int64)
    lies = _require(
        tf.reduce_all(tf.logical_and(wide >= 0, wide < classes)),
        f"y must lie in 0..{classes - 1}, got {{}}..{{}}",
        *(tf.reduce_min(y), tf.reduce_max(y)),
    )
    with tf.control_dependencies([lies]):
        return tf.cast(wide, tf.int32)


def _one_hot(y: tf.Tensor) -> tf.Tensor:
    """Labels int32 [n] of rows, each with a single 1 and 0 elsewhere."""
    ones = tf.equal(y, tf.ones((), y.dtype))
    single = tf.equal(tf.math.count_nonzero(y, 1), 1)
    wrong = tf.logical_not(tf.logical_and(single, tf.reduce_any(ones, 1)))
    first = tf.argmax(tf.cast(wrong, tf.int32))
    hot = _require(
        tf.logical_not(tf.reduce_any(wrong)),
        "y must be one-hot rows, a single 1 and 0 elsewhere, got the row {}",
        # Of no examples there is none to show.
        tf.gather(tf.pad(y, ((0, 1), (0, 0))), first),
    )
    with tf.control_dependencies([hot]):
        return tf.argmax(tf.cast(ones, tf.int32), 1, output_type=tf.int32)


def _weights(weight: Any) -> tf.Tensor:
    """Weights of examples, float32 [n]."""
    real = tf.is_tensor(weight) and (weight.dtype.is_floating or weight.dtype.is_integer)
    if not real or not (weight.shape.rank is None or weight.shape[1:].as_list() in _SINGLE):
        raise ValueError(
            "sample_weight must be one number for each image, of shape [n], got "
            f"{getattr(weight, 'shape', None)}"
        )
    return tf.cast(tf.reshape(weight, (-1,)), tf.float32)


def refusing(function: Callable) -> Callable:
    """A compiled step of Keras whose refusals by `batch` are one line of `ValueError`."""

    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except tf.errors.InvalidArgumentError as error:
            told = re.search(f"{_BEGIN}(.*?){_END}", str(error), re.DOTALL)
            if told is None:
                raise
            raise ValueError(" ".join(told[1].split())) from None

    return call


def _require(condition: tf.Tensor, message: str, *values: tf.Tensor) -> tf.Tensor:
    """Fails where the condition does not hold, with the `values` put into the message."""

    def refuse() -> tf.Tensor:
        text = _BEGIN + message + _END
        told = tf.strings.format(text, values) if values else tf.constant(text)
        with tf.control_dependencies([tf.debugging.Assert(condition, [told])]):
            return tf.constant(False)

    return tf.cond(condition, lambda: tf.constant(True), refuse)
