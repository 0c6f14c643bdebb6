"""Lines below and above ReLUs, as a backward pass replaces them: any slopes in [0, 1] are valid."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .rounding import FEW, TINY, UNIT64


class Lines(NamedTuple):
    """Of one ReLU, arrays that broadcast to [n, r, *shape].

    `below z <= relu(z) <= above z + intercept` between the bounds, or where phases are fixed on
    their side. A fixed phase `s` (1: `z >= 0`, -1: `z <= 0`) may add `beta s z >= 0`, `beta >= 0`.

    Attributes:
      below, above: slopes.
      intercept: at least 0.
      extra: `-s beta`, or None.
    """

    below: np.ndarray
    above: np.ndarray
    intercept: np.ndarray
    extra: np.ndarray | None = None


def chord(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """The slope of the line through both ends, in float64: 1 where active, 0 where dead."""
    low, high = (np.asarray(end, np.float64) for end in (lower, upper))
    crossing = (low < 0) & (high > 0)
    slope = np.where(crossing, high, 0.0) / np.where(crossing, high - low, 1.0)
    return np.where(crossing, np.clip(slope, 0.0, 1.0), np.where(high > 0, 1.0, 0.0))


def intercept(slope: np.ndarray, lower: np.ndarray, upper: np.ndarray, exact: bool) -> np.ndarray:
    """The least that keeps `slope z + intercept` above the ReLU between the bounds.

    `relu(z) - slope z` is convex, so that it is largest at an end. In float64 it is rounded
    upward so far that a product with the slope may be rounded too.
    """
    zero = 0 * slope
    ends = np.maximum(
        np.where(lower < 0, -slope * lower, zero), np.where(upper > 0, (1 - slope) * upper, zero)
    )
    if exact:
        return ends
    # A slope of 0 or 1 is multiplied exactly, and leaves nothing where a ReLU is stable.
    stable = ((lower >= 0) & (slope == 1)) | ((upper <= 0) & (slope == 0))
    rounded = ends * (1 + 2 * FEW) + 4 * UNIT64 * np.maximum(upper, 0.0) + TINY
    return np.where(stable, 0.0, rounded)


def adaptive(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """CROWN's slope below: 1 where the ReLU is more active than dead, else 0."""
    return np.where(upper > -lower, 1.0, 0.0)


def settled(slope: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """A slope below where the ReLU is unstable, and its own where it is not."""
    return np.where(lower >= 0, 1.0, np.where(upper <= 0, 0.0, slope))


def with_phases(lines: Lines, phases: np.ndarray, beta: np.ndarray) -> Lines:
    """The lines where phases are fixed.

    Args:
      lines: of all phases.
      phases: [n or 1, r, *shape], 1 or -1 where one is fixed, else 0.
      beta: multipliers of these, at least 0, in the same shape.
    """
    # Whole numbers, which are exact among fractions too.
    fixed, one = phases != 0, np.maximum(phases, 0)
    return Lines(
        np.where(fixed, one, lines.below),
        np.where(fixed, one, lines.above),
        np.where(fixed, 0 * lines.intercept, lines.intercept),
        np.where(fixed, -phases * beta, 0 * beta),
    )
