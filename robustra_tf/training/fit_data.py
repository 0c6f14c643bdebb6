"""The batches of Keras's `fit`: checked while they pass, inside `tf.data` and compiled steps too.

What is known when a step is traced (types, shapes) is refused there. Values are checked by an
assertion in the step, one look at every pixel; TensorFlow's error around it is turned into one
`ValueError` by `refusing`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from robustra_tf.bounds.balls import Box, inside
from robustra_tf.graph.graph import Structure

#: What a refusal stands between, in whatever TensorFlow puts around it.
_BEGIN, _END = "<refused>", "</refused>"

#: Axes of labels after the first: none, or one of a single entry.
_LABELS = ([], [1], [None])


def batch(data: Any, structure: Structure, box: Box) -> tuple[tf.Tensor, tf.Tensor]:
    """Images, float32 [n, *input_shape], and labels, int32 [n], checked.

    Args:
      data: what Keras gives a step.
      structure: of the network.
      box: that all pixels keep to.

    Raises:
      ValueError: images or labels missing, of another kind or another shape, or weights of
        examples. Of values, `tf.errors.InvalidArgumentError` as `refusing` reads it: pixels outside
        the box or not finite, labels that are no class.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    low, high = box
    if sample_weight is not None:
        raise ValueError("sample_weight must be None, and class_weight: losses are plain means")
    if not (tf.is_tensor(x) and x.dtype.is_floating):
        raise ValueError(f"x must be one tensor of floating-point pixels in [{low:g}, {high:g}]")
    # Steps for data of several shapes are traced for shapes, or ranks, that are not known.
    if not (tf.is_tensor(y) and (y.shape.rank is None or y.shape[1:].as_list() in _LABELS)):
        raise ValueError("y must be one integer label per image, of shape [n] or [n, 1]")
    if not y.dtype.is_integer:
        raise ValueError(f"y must be integer labels, got {y.dtype.name}")
    shape, classes = structure.input_shape, structure.output_shape[0]
    expected = f"x must have shape [n, {', '.join(map(str, shape))}], got "
    if not x.shape.is_compatible_with((None, *shape)):
        raise ValueError(f"{expected}{x.shape}")
    x, y = tf.cast(x, tf.float32), tf.cast(tf.reshape(y, (-1,)), tf.int32)
    size = tf.shape(x)
    known = tf.equal(tf.size(size), 1 + len(shape))
    fits = tf.cond(known, lambda: tf.reduce_all(size[1:] == [*shape]), lambda: False)
    with tf.control_dependencies([_require(fits, f"{expected}{{}}", size)]):
        x = tf.ensure_shape(tf.identity(x), (None, *shape))
    checks = [
        _require(
            tf.equal(tf.shape(x)[0], tf.size(y)),
            "y must have a label for each image, got {} images and {} labels",
            *(tf.shape(x)[0], tf.size(y)),
        ),
        _require(tf.reduce_all(tf.math.is_finite(x)), "x must be finite, got NaN or infinity"),
        _require(
            tf.reduce_all(inside(x, box)),
            f"x must lie in the box [{low:g}, {high:g}], got values in [{{}}, {{}}]: pixels, "
            "neither standardised nor in 0..255",
            *(tf.reduce_min(x), tf.reduce_max(x)),
        ),
        _require(
            tf.reduce_all(tf.logical_and(y >= 0, y < classes)),
            f"y must lie in 0..{classes - 1}, got {{}}..{{}}",
            *(tf.reduce_min(y), tf.reduce_max(y)),
        ),
    ]
    # Nothing that uses them may run before: an update could not be taken back.
    with tf.control_dependencies(checks):
        return tf.identity(x), tf.identity(y)


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
