"""What counts: one rule for arrays, and the same one for tensors.

A property is verified where of each group of its conditions a margin is a finite number above 0,
and there is a group. An example is certified where every rival is such a group of its own, where
its label is a class, and where the prediction is right. It is written so that whatever is not known
does not count: NaN, infinity (a bound that was not computed, or overflowed), a label that is no
class, a network of one logit. A tie is no win.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

#: What is predicted where the logits are no finite numbers: a class that no label is.
NO_CLASS = -1


def predicted(logits: np.ndarray) -> np.ndarray:
    """The class of the greatest logit, integers [n], of `logits` [n, classes].

    `NO_CLASS` where any logit is not a finite number.
    """
    logits = np.asarray(logits)
    if not logits.shape[1]:
        return np.full(len(logits), NO_CLASS)
    return np.where(np.isfinite(logits).all(1), logits.argmax(1), NO_CLASS)


def verified(lower: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Whether lower bounds of margins prove that no group of conditions holds, boolean [n].

    Args:
      lower: lower bounds of each condition's margin, [n, k].
      group: the group of each, integers [n or 1, k]; one below 0 is not looked at.
    """
    lower, group = np.asarray(lower), np.broadcast_to(group, np.shape(lower))
    proven = (lower > 0) & (lower < np.inf)
    count = int(group.max(initial=-1)) + 1
    # Conditions of no group go where nobody looks.
    place = np.where(group < 0, count, group) + (count + 1) * np.arange(len(lower))[:, None]
    shape = (len(lower), count + 1)
    asked, won = (
        np.bincount(place.ravel(), weights, math.prod(shape)).reshape(shape)[:, :count] > 0
        for weights in (None, proven.ravel())
    )
    return np.all(won | ~asked, 1) & np.any(asked, 1)


def certified(lower: np.ndarray, y: np.ndarray, classes: np.ndarray | None = None) -> np.ndarray:
    """Whether lower bounds of margins prove the labels, boolean [n].

    Args:
      lower: lower bounds of `f_y - f_t` over each ball, [n, classes]; entry `y` is not looked at.
      y: labels, integers [n].
      classes: the predictions, integers [n], which must equal `y`; None does not look at them.
    """
    lower, y = np.asarray(lower), np.asarray(y)
    every = np.arange(lower.shape[1])
    own = every == y[:, None]
    found = verified(lower, np.where(own, -1, every)) & own.any(1)
    return found if classes is None else found & (np.asarray(classes) == y)


def least_margin(lower: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The least of lower bounds of `f_y - f_t` over all rivals `t`, [n].

    Above 0 where `certified`, predictions apart, says so; -inf where a bound is no finite number,
    or where there is no rival.

    Args:
      lower: [n, classes].
      y: labels, integers [n].
    """
    return over_rivals(lower, y).min(1, initial=np.inf if lower.shape[1] > 1 else -np.inf)


def over_rivals(lower: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`lower` with -inf for what is no finite number, and infinity for the labels themselves."""
    own = np.arange(lower.shape[1]) == y[:, None]
    return np.where(own, np.inf, np.where(np.isfinite(lower), lower, -np.inf))


def predicted_tensor(logits: tf.Tensor) -> tf.Tensor:
    """`predicted` of a tensor [n, classes], int32 [n]."""
    found = tf.argmax(logits, -1, output_type=tf.int32)
    # Of NaN, `argmax` may see nothing.
    return tf.where(tf.reduce_all(tf.math.is_finite(logits), -1), found, NO_CLASS)


def labels_tensor(y: tf.Tensor) -> tf.Tensor:
    """Labels as int32 [n]; what is beyond that type comes out far below 0, as no class."""
    y = tf.convert_to_tensor(y)
    if y.dtype.is_integer and y.dtype.max <= tf.int32.max:
        return tf.cast(y, tf.int32)
    wide = tf.cast(y, tf.int64)
    near = tf.cast(wide, tf.int32)
    return tf.where(tf.equal(tf.cast(near, tf.int64), wide), near, tf.int32.min)


def certified_tensor(lower: tf.Tensor, y: tf.Tensor, classes: tf.Tensor | None = None) -> tf.Tensor:
    """`certified` of tensors, boolean [n]."""
    count, y = tf.shape(lower)[-1], labels_tensor(y)
    own = tf.equal(tf.range(count)[None], y[:, None])
    proven = tf.logical_and(lower > 0, tf.math.is_finite(lower))
    has_rival = tf.logical_and(tf.reduce_any(own, -1), count > 1)
    found = tf.logical_and(tf.reduce_all(tf.logical_or(proven, own), -1), has_rival)
    if classes is None:
        return found
    return tf.logical_and(found, tf.equal(tf.cast(classes, tf.int32), y))


def there(eps: float | np.ndarray) -> np.ndarray:
    """Whether a radius, or radii [n or 1, ...], has a ball: finite and at least 0. [] or [n or 1].

    Of an empty ball nothing is certified.
    """
    radii = np.asarray(eps).reshape((*np.shape(eps)[:1], -1))
    return np.all((radii >= 0) & (radii < np.inf), -1)
