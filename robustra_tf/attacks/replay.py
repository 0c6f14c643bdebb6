"""Checks of adversarial examples, apart from the search that found them.

The search runs in float32, where a point can leave the ball by a rounding error. What is reported
lies in the ball and the box in exact terms: float32 images compared in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from robustra_tf.bounds.balls import NORMS, Box
from robustra_tf.conditions import Output
from robustra_tf.intake import checks
from robustra_tf.property import Interval, Property, Query, balls, by_labels, check_parts


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
    x: Any,
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
      x: images [n, *shape], in the box, taken as float64; or a `Property`, which has all but the
        candidates.
      candidates: [n, *shape], rounded to float32: what is run is what is compared with the set.
      y: labels int [n], or what must not be reached.
      eps: radius in pixels, or radii that broadcast to [n, *shape], one for each image as
        [n, 1, ...]; as `certify` takes it.
      norm: "linf", "l2" or "l1".
      box: (lo, hi) of every pixel, or None.
      batch_size: candidates a forward pass.

    Raises:
      ValueError: an argument out of its range, missing or one too many, by name; arrays of
        different lengths or shapes, or labels that are not classes.

    Example:
      >>> candidates = np.array([[0.4, 0.6]], "float32")
      >>> found = rt.attacks.replay(model, x, candidates, y, eps=0.5)
      >>> found.success, found.predicted
      (array([ True]), array([1]))
    """
    query = _asked(x, y, eps, norm, box)
    with np.errstate(over="ignore"):
        candidates = _candidates(query.x, candidates).astype(np.float32)
    return replayed(model, query, candidates, checks.whole("batch_size", batch_size))


def _asked(x: Any, y: Any, eps: Any, norm: str, box: Any) -> Query:
    """What is asked, in float64: as `property.asked`, but whether labels are classes is left open.

    The model may be any, so its shapes are not known yet.
    """
    check_parts(x, y, eps, norm, box)
    if isinstance(x, Property):
        return balls(x, "float64")
    x, box = checks.numbers("x", x), checks.box(box)
    x = checks.images(x, x.shape[1:], box, "float64")
    eps = checks.radius(eps, norm, box, x.shape[1:], len(x))
    if isinstance(y, Output):
        return balls(Property.around(x, eps, y, norm, box), "float64")
    return by_labels(x, checks.integers(y, len(x)), eps, norm, box)


def replayed(
    model: Callable, query: Query, candidates: np.ndarray, batch_size: int = 500
) -> Replay:
    """As `replay`, of a question.

    Args:
      model: as `replay` takes it.
      query: in float64, or of float32 images.
      candidates: float32 [n, *shape].
      batch_size: candidates a forward pass.
    """
    inside = within(query.x, candidates, query.eps, query.norm, query.box)
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
    if logits.shape[1] < 2:
        raise ValueError("y must be rt.binary, below or above for a model of one logit, got labels")
    labels = checks.labels(query.labels, len(logits), logits.shape[1])[:, None]
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
    logits = np.asarray(logits)
    if logits.ndim != 2:
        raise ValueError(f"model must give logits [n, outputs], got shape {logits.shape}")
    return logits


def _candidates(x: np.ndarray, candidates: Any) -> np.ndarray:
    """Candidates for images, float64."""
    candidates = checks.numbers("candidates", candidates)
    if x.shape != candidates.shape:
        raise ValueError(
            f"candidates: expected the images' shape {x.shape}, got {candidates.shape}"
        )
    return candidates


def contained(
    x: np.ndarray,
    candidates: np.ndarray,
    eps: float | np.ndarray,
    norm: str = "linf",
    box: Box | None = (0.0, 1.0),
) -> np.ndarray:
    """Whether each candidate satisfies `||candidate - x|| <= eps` and lies in the box.

    Args:
      x: images [n, *shape].
      candidates: [n, *shape].
      eps: radius in pixels, or radii that broadcast to [n, *shape], one for each image as
        [n, 1, ...]; as `certify` takes it.
      norm: "linf", "l2" or "l1".
      box: (lo, hi) of every pixel, or None.

    Returns:
      Boolean [n], computed in float64 without any tolerance.

    Raises:
      ValueError: an argument that is something else, by name.

    Example:
      >>> rt.attacks.contained(x, x + np.float32(0.125), eps=0.1)
      array([False])
    """
    x, norm, box = checks.numbers("x", x), checks.member("norm", norm, NORMS), checks.box(box)
    if x.ndim == 0:
        raise ValueError("x must have shape [n, *shape], got one number")
    eps = checks.radius(eps, norm, box, x.shape[1:], len(x))
    return within(x, _candidates(x, candidates), eps, norm, box)


def within(
    x: np.ndarray,
    candidates: np.ndarray,
    eps: float | np.ndarray,
    norm: str,
    box: Interval | None,
) -> np.ndarray:
    """As `contained`, of checked arguments.

    Args:
      x, candidates: [n, *shape] each.
      eps: as `checks.radius` gives it.
      norm: of the ball.
      box: an interval for every pixel, or one for all, or None.
    """
    points = candidates.astype(np.float64)
    # Not a number is nowhere: comparisons with it are false.
    if np.ndim(eps) and norm == "linf":
        inside = np.all(_flat(np.abs(points - x.astype(np.float64)) <= eps), axis=1)
    else:
        inside = distances(x, candidates, norm) <= np.reshape(eps, -1)
    if box is not None:
        inside &= np.all(_flat((points >= box[0]) & (points <= box[1])), axis=1)
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
      eps, norm, box: the set, as `within` takes it.

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
