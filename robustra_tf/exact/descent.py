"""Descent on a margin within the pixels' intervals, in float64, on the restricted network."""

from __future__ import annotations

import numpy as np

from robustra_tf.exact.restriction import Restriction


def descend(
    restriction: Restriction, row: np.ndarray, point: np.ndarray, steps: int = 20
) -> np.ndarray:
    """The point of the smallest `row u` on a few signed gradient steps from `point`.

    Args:
      restriction: the network; the pixels keep to its [low, high].
      row: [n + m], the margin on pixels and units.
      point: [n].
      steps: their length falls from a quarter of the intervals to none.

    Returns:
      [n], in the intervals.
    """
    low, high = restriction.low, restriction.high
    x = best = np.clip(point, low, high)
    least, gradient = restriction.gradient(x, row)
    for step in range(steps):
        x = x - 0.25 * (1.0 - step / steps) * (high - low) * np.sign(gradient)
        x = np.clip(x, low, high)
        value, gradient = restriction.gradient(x, row)
        if value < least:
            least, best = value, x
    return best
