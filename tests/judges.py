"""Who judges sound bounds: exact rational arithmetic, sums in any order, points of a ball.

Weights are read as they are stored, and nothing is rounded (`fractions.Fraction`).
"""

from fractions import Fraction

import keras
import numpy as np
from keras import layers

from tests import nets


def chain(sizes, seed=0):
    """Dense layers of these sizes with ReLUs between."""
    model = keras.Sequential([keras.Input(sizes[:1])])
    for units in sizes[1:-1]:
        model.add(layers.Dense(units, activation="relu"))
    model.add(layers.Dense(sizes[-1]))
    return nets.randomise(model, seed)


def exact_logits(weights, x):
    """The logits of a dense chain at one `x`, as fractions: nothing is rounded."""
    values = [Fraction(float(v)) for v in x]
    pairs = list(zip(weights[::2], weights[1::2], strict=True))
    for k, (kernel, bias) in enumerate(pairs):
        columns = [[Fraction(float(w)) for w in column] for column in kernel.T]
        values = [
            sum((w * v for w, v in zip(column, values, strict=True)), Fraction(float(b)))
            for column, b in zip(columns, bias, strict=True)
        ]
        if k < len(pairs) - 1:
            values = [max(v, Fraction(0)) for v in values]
    return values


def exact_margin(weights, x, label):
    """The least `f_y - f_t` over the other classes, as a fraction."""
    logits = exact_logits(weights, x)
    return min(logits[label] - v for t, v in enumerate(logits) if t != label)


def summed_one_by_one(weights, x, order):
    """The logits in float32 with every sum taken term by term in an order of one's own."""
    values = np.asarray(x, np.float32)
    pairs = list(zip(weights[::2], weights[1::2], strict=True))
    for k, (kernel, bias) in enumerate(pairs):
        terms = (values[:, None] * kernel)[order(len(values))]
        total = np.add.accumulate(terms, axis=0, dtype=np.float32)[-1] + bias
        values = np.maximum(total, 0) if k < len(pairs) - 1 else total
    return values


def margin_of(logits, label):
    return logits[label] - np.delete(logits, label).max()


def points(x, eps, norm, box, count, rng):
    """Float32 inputs within a ball: the image, corners for `linf`, and random ones."""
    found = [x]
    for _ in range(count):
        away = rng.choice([-1.0, 1.0], size=x.shape)
        if norm == "linf":
            away *= rng.choice([1.0, rng.uniform()])
        else:
            away *= rng.uniform(size=x.shape)
            away /= np.linalg.norm(away.ravel(), {"l2": 2, "l1": 1}[norm])
        # A little inside, for the sum to stay in the ball once it is rounded to float32.
        near = x.astype(np.float64) + away * eps * (1 - 1e-6)
        near = near if box is None else near.clip(*box)
        near = near.astype(np.float32)
        off = np.abs(near.astype(np.float64) - x).ravel()
        if np.linalg.norm(off, {"linf": np.inf, "l2": 2, "l1": 1}[norm]) <= eps:
            found.append(near)
    return np.stack(found)
