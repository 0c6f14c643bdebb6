"""What the checker knows of a node while it goes through a network."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .rounding import LARGEST


class State(NamedTuple):
    """Of a node: `|v - centre| <= width`; `pushed` is the rounding since the last ReLU."""

    centre: np.ndarray
    width: np.ndarray
    pushed: np.ndarray

    @property
    def magnitude(self) -> np.ndarray:
        """The largest absolute value of each entry."""
        return np.abs(self.centre) + self.width


def weighed(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`sum_j row_j weight_j`: rows [n or 1, r, *shape] and weights [n, *shape] to [n, r]."""
    flat = rows.reshape(*rows.shape[:2], -1)
    return (flat @ weights.reshape(len(weights), -1, 1))[..., 0]


def bounded(values: np.ndarray) -> np.ndarray:
    """Whether all of an image's numbers keep below `LARGEST`, [n]."""
    return np.all(values.reshape(len(values), -1) <= LARGEST, 1)
