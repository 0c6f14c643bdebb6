"""The sets of inputs that a certificate speaks of."""

from __future__ import annotations

import numpy as np

from .claim import Claim


def half_widths(claim: Claim, few: float) -> tuple[np.ndarray, np.ndarray]:
    """The centres, and how far every pixel can be off them, [n, *shape] each.

    Args:
      claim: whose inputs are meant.
      few: the relative rounding to count, 0 for none.
    """
    x, radius, walls = claim.x, claim.radius, claim.walls
    if claim.norm != "linf":
        radius = np.broadcast_to(radius.reshape(-1, *(1,) * (x.ndim - 1)), x.shape)
        if claim.cut and walls is not None:
            # A difference of two numbers rounds relative to itself.
            room = np.maximum(walls[1] - x, x - walls[0])
            radius = np.minimum(radius, room * (1 + few))
        return x, radius
    if walls is None:
        return x, radius
    low, high = np.maximum(x - radius, walls[0]), np.minimum(x + radius, walls[1])
    centre, half = 0.5 * (low + high), 0.5 * (high - low)
    return centre, half + few * (np.abs(centre) + half + radius)
