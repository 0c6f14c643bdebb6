"""Checks of adversarial examples, apart from the search that found them.

The search runs in float32, where a point can leave the ball by a rounding error. What is reported
lies in the ball and the box in exact terms: float32 images compared in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from robustra_tf.bounds.balls import Box
from robustra_tf.conditions import Output
from robustra_tf.property import Interval, Property, Query, balls, by_labels


class Replay(NamedTuple):
    """What a network says about candidate adversarial examples.

    Attributes:
      success: boolean [n], inside ball and box and classified as another class than the label; of a
        property, its outputs are unsafe, computed exactly from the model's own.
      predicted: int [n], the class of each candidate, its greatest output.
      margin: [n], the largest `logit_t - logit_y` over `t != y`, float32; of a property, how far
        outputs are inside the unsafe set.

    Example:
      >>> print(rt.attacks.replay(model, x, x, y, eps=0.1).margin.round(2))
      [-0.6]
    """

    success: np.ndarray
    predicted: np.ndarray
    margin: np.ndarray


def replay(  # noqa: PLR0913, public
    model: Callable,
    x: np.ndarray | Property,
    candidates: np.ndarray,
    y: np.ndarray | Output | None = None,
    eps: float | np.ndarray | None = None,
    *,
    norm: str = "linf",
    box: Box | None = (0.0, 1.0),
    batch_size: int = 500,
) -> Replay:
    """Runs candidates through a network and checks where they lie.

    Any network will do: one that the candidates were not made for gives a transfer attack.

    Args:
      model: a Keras model or graph, float32 [n, *shape] -> logits [n, classes].
      x: images float32 [n, *shape], in pixels; or a `Property`, which has all but the candidates.
      candidates: float32 [n, *shape].
      y: labels int [n], or what must not be reached.
      eps: radius in pixels, or radii that broadcast to the images, or one for each image, [n].
      norm: "linf", "l2" or "l1".
      box: (lo, hi) of every pixel, or None.
      batch_size: candidates a forward pass.

    Raises:
      ValueError: arrays of different lengths or shapes, or labels that are not classes.

    Example:
      >>> candidates = np.array([[0.4, 0.6]], "float32")
      >>> found = rt.attacks.replay(model, x, candidates, y, eps=0.5)
      >>> found.success, found.predicted
      (array([ True]), array([1]))
    """
    if isinstance(y, Output):
        x, y, eps = Property.around(x, eps, y, norm, box), None, None
    if isinstance(x, Property):
        return replayed(model, balls(x, "float64"), candidates, batch_size)
    if len(y) != len(x):
        raise ValueError(f"y: expected one label for each of {len(x)} images, got {len(y)}")
    query = by_labels(x, np.asarray(y, np.int64), eps, norm, box)
    return replayed(model, query, candidates, batch_size)


def replayed(model: Callable, query: Query, candidates: np.ndarray, batch_size: int) -> Replay:
    """As `replay`, of a question.

    Args:
      model: as `replay` takes it.
      query: in float64, or of float32 images.
      candidates: float32 [n, *shape].
      batch_size: candidates a forward pass.
    """
    inside = contained(query.x, candidates, query.eps, query.norm, query.box)
    parts = []
    for first in range(0, len(inside), batch_size):
        index = np.arange(first, min(first + batch_size, len(inside)))
        logits = _inferred(model, tf.constant(candidates[index], tf.float32))
        parts.append((*_judged(logits, query.take(index)), logits.argmax(axis=1)))
    if not parts:
        return Replay(inside, np.zeros(0, np.int64), np.zeros(0, np.float32))
    reached, margin, predicted = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Replay(inside & reached, predicted, margin)


def _judged(logits: np.ndarray, query: Query) -> tuple[np.ndarray, np.ndarray]:
    """Whether outputs are what must not be reached, and by how much they are: [n] each."""
    if query.labels is None:
        conditions = query.conditions(logits.shape[1])
        return conditions.reached(logits), conditions.violation(logits)
    labels = query.labels[:, None]
    if not ((labels >= 0) & (labels < logits.shape[1])).all():
        raise ValueError(
            f"y: expected labels in 0..{logits.shape[1] - 1}, got {labels.min()}..{labels.max()}"
        )
    others = logits.copy()
    np.put_along_axis(others, labels, -np.inf, axis=1)
    margin = others.max(axis=1) - np.take_along_axis(logits, labels, axis=1)[:, 0]
    finite = np.isfinite(logits).all(axis=1)
    return finite & (logits.argmax(axis=1) != labels[:, 0]), margin


def _inferred(model: Callable, x: tf.Tensor) -> np.ndarray:
    if isinstance(model, keras.Model):
        # Some layers train unless they are told not to.
        (logits,) = keras.tree.flatten(model(x, training=False))
    else:
        logits = model(x)
    return np.asarray(logits)


def contained(
    x: np.ndarray,
    candidates: np.ndarray,
    eps: float | np.ndarray,
    norm: str = "linf",
    box: Interval | None = (0.0, 1.0),
) -> np.ndarray:
    """Whether each candidate satisfies `||candidate - x|| <= eps` and lies in the box.

    Args:
      x: images [n, *shape].
      candidates: [n, *shape].
      eps, norm, box: the set; radii and ends of a box may be arrays with the images' axes, radii
        [n] too.

    Returns:
      Boolean [n], computed in float64 without any tolerance.

    Example:
      >>> rt.attacks.contained(x, x + np.float32(0.125), eps=0.1)
      array([False])
    """
    if x.shape != candidates.shape:
        raise ValueError(
            f"candidates: expected the images' shape {x.shape}, got {candidates.shape}"
        )
    points = candidates.astype(np.float64)
    # Not a number is nowhere: comparisons with it are false.
    if np.ndim(eps) > 1 and norm == "linf":
        inside = _flat(np.abs(points - x.astype(np.float64)) <= eps).all(axis=1)
    else:
        inside = distances(x, candidates, norm) <= np.reshape(eps, -1)
    if box is not None:
        inside &= _flat((points >= box[0]) & (points <= box[1])).all(axis=1)
    return inside


def distances(x: np.ndarray, candidates: np.ndarray, norm: str) -> np.ndarray:
    """`||candidate - x||` of each image, float64 [n]."""
    return _length(_flat(candidates.astype(np.float64) - x.astype(np.float64)), norm)


def settle(
    x: np.ndarray,
    candidates: np.ndarray,
    eps: float | np.ndarray,
    norm: str,
    box: Interval | None,
) -> np.ndarray:
    """The candidates moved by rounding errors, into the ball and the box exactly.

    Args:
      x: images [n, *shape] that lie in the box.
      candidates: float32 [n, *shape], up to rounding inside already.
      eps, norm, box: the set, as `contained` takes it.

    Returns:
      float32 [n, *shape].
    """
    shape = (len(x),) + (1,) * (x.ndim - 1)
    centre = x.astype(np.float64)
    delta = candidates.astype(np.float64) - centre
    if norm != "linf":
        # The slack is below what one pixel can show, above what a sum of float32 pixels loses.
        length = _length(_flat(delta), norm).reshape(shape)
        delta *= np.minimum(1.0, eps * (1.0 - 1e-6) / np.maximum(length, 1e-300))
    low, high = centre - eps, centre + eps
    if box is not None:
        low, high = np.maximum(low, box[0]), np.minimum(high, box[1])
    return np.clip((centre + delta).astype(np.float32), _round_up(low), _round_down(high))


def _flat(images: np.ndarray) -> np.ndarray:
    """[n, *shape] as [n, size], of no images too."""
    return images.reshape(len(images), int(np.prod(images.shape[1:])))


def _length(flat: np.ndarray, norm: str) -> np.ndarray:
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    return np.linalg.norm(flat, ord=order, axis=1)


def _round_up(values: np.ndarray) -> np.ndarray:
    """The smallest float32 that is at least each float64 value."""
    near = values.astype(np.float32)
    return np.where(near < values, np.nextafter(near, np.float32(np.inf)), near)


def _round_down(values: np.ndarray) -> np.ndarray:
    return -_round_up(-values)
