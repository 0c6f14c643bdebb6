"""Descent on margins within the pixels' intervals, in float64, on the restricted network."""

from __future__ import annotations

import numpy as np

from robustra_tf.exact.restriction import Restriction


def descend(
    restriction: Restriction,
    rows: np.ndarray,
    constants: np.ndarray,
    point: np.ndarray,
    steps: int = 20,
) -> np.ndarray:
    """The point of the smallest margin, of several the greatest, on a few signed gradient steps.

    Args:
      restriction: the network; the pixels keep to its [low, high].
      rows, constants: [k, n + m] and [k], margins on pixels and units.
      point: [n], to begin from.
      steps: their length falls from a quarter of the intervals to none.

    Returns:
      [n], in the intervals.
    """
    low, high = restriction.low, restriction.high

    def slope(x: np.ndarray) -> tuple[float, np.ndarray]:
        values = rows @ restriction.values(x[None])[0][0] + constants
        worst = int(values.argmax())
        return float(values[worst]), restriction.gradient(x, rows[worst])[1]

    x = best = np.clip(point, low, high)
    least, gradient = slope(x)
    for step in range(steps):
        x = x - 0.25 * (1.0 - step / steps) * (high - low) * np.sign(gradient)
        x = np.clip(x, low, high)
        value, gradient = slope(x)
        if value < least:
            least, best = value, x
    return best
