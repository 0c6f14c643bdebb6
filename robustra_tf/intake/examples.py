"""Where arrays are taken, data sets of TensorFlow and of Keras are too: both become arrays here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from robustra_tf.intake import checks

#: What labelled images may be given as: (images, labels), or a data set of both.
Labelled = tuple[Any, Any] | tf.data.Dataset | keras.utils.PyDataset
_SETS = (tf.data.Dataset, keras.utils.PyDataset)
#: Examples at a time of a data set that is not batched.
_BATCH = 500


def arrays(x: Any, y: Any, shape: Sequence[int]) -> tuple[Any, Any]:
    """Images and labels as they were given, or those of a data set.

    Args:
      x: images; or a `tf.data.Dataset` or `keras.utils.PyDataset` of a known number of batches,
        (images, labels) each; a `tf.data.Dataset` may have single examples instead.
      y: labels; None for a data set.
      shape: of one image, as the network takes it.

    Returns:
      (x, y): of a data set the whole of it, in its order; the images and labels are for the door
      to check.

    Raises:
      ValueError: an argument by name: a data set without an end or without labels, or one of other
        than pairs or of images of several shapes.
    """
    if not isinstance(x, _SETS):
        return x, y
    own = isinstance(x, keras.utils.PyDataset)
    kind = f"the PyDataset {type(x).__name__}" if own else "a tf.data.Dataset"
    if y is not None:
        raise ValueError(f"y must be None where x is {kind}, which has the labels")
    parts = [_pair(part, kind) for part in _batches(x, kind, len(shape))]
    if not parts:
        return np.zeros((0, *shape), np.float32), np.zeros(0, np.int32)
    try:
        images, labels = (np.concatenate(each) for each in zip(*parts, strict=True))
    except ValueError as error:
        raise ValueError(f"x must give images of one shape, {kind} does not: {error}") from error
    return images, labels


def labelled(name: str, given: Labelled, shape: Sequence[int], classes: int):
    """Labelled images in [0, 1] to train or test on, float32 [n, *shape] and int32 [n].

    Args:
      name: of the argument.
      given: (images, labels), or a data set as `arrays` takes it.
      shape: of one image.
      classes: how many the network tells apart.

    Raises:
      ValueError: something else; it begins with the name.
    """
    pair = isinstance(given, tuple | list) and len(given) == 2
    if not pair and not isinstance(given, _SETS):
        kind = type(given).__name__
        raise ValueError(f"{name}: expected (images, labels) or a data set of both, got a {kind}")
    try:
        x, y = given if pair else arrays(given, None, shape)
        x = checks.images(x, shape, (0.0, 1.0), "float32")
        return x, checks.labels(y, len(x), classes)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _batches(x: Any, kind: str, rank: int) -> Iterable[Any]:
    if isinstance(x, keras.utils.PyDataset):
        if x.num_batches is None:
            raise ValueError(f"x must have an end, {kind} of num_batches None has none")
        return (x[index] for index in range(x.num_batches))
    if (count := int(x.cardinality())) < 0:
        way = (
            "take(n) ends it" if count == -1 else "tf.data.experimental.assert_cardinality says it"
        )
        raise ValueError(f"x must be of known size, {kind} is not: {way}")
    spec = x.element_spec
    single = isinstance(spec, tuple) and getattr(spec[0], "shape", None) is not None
    single = single and spec[0].shape.rank == rank
    return x.batch(_BATCH) if single else x


def _pair(part: Any, kind: str) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(part, tuple | list) or len(part) != 2:
        got = f"{len(part)} values" if isinstance(part, tuple | list) else type(part).__name__
        raise ValueError(f"x must give pairs (images, labels) and nothing else, {kind} gives {got}")
    images, labels = (np.asarray(value) for value in part)
    if labels.ndim == 0 or images.ndim == 0 or len(images) != len(labels):
        raise ValueError(
            f"x must give a label for each image, {kind} gives {images.shape} and {labels.shape}"
        )
    return images, labels
