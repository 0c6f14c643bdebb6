"""Radii and ends of intervals: of some examples, rounded outward, in words."""

from __future__ import annotations

from typing import Any

import numpy as np


def outward(low: np.ndarray, high: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The ends of intervals in a type, not inside of the given ones."""
    down, up = low.astype(kind), high.astype(kind)
    down = np.where(down > low, np.nextafter(down, down.dtype.type(-np.inf)), down)
    return down, np.where(up < high, np.nextafter(up, up.dtype.type(np.inf)), up)


def chosen(values: Any, index: np.ndarray) -> Any:
    """Of a number or [1, ...] itself, of [n, ...] the examples `index`."""
    return values if np.ndim(values) == 0 or len(values) == 1 else values[index]


def shown(eps: float | np.ndarray) -> str:
    """A radius, or the range of radii, for people."""
    if np.ndim(eps) == 0 or not np.size(eps):
        return f"{float(eps):g}" if np.ndim(eps) == 0 else "none"
    return f"{np.min(eps):g} to {np.max(eps):g}"
