"""How the radius and the learning rate go along the epochs (section 6 of the paper)."""

from __future__ import annotations

import math
from collections.abc import Sequence

# The learning rate is halved whenever this many epochs have passed since the warm-up.
HALVING_EPOCHS = 10


def epsilon(epoch: int, start: float, end: float, warmup: int) -> float:
    """The radius of an epoch: `linspace(start, end, warmup)` along the warm-up, then `end`.

    Args:
      epoch: counts from 0.
      start, end: radii in pixels.
      warmup: epochs of the ramp; with 1, its only epoch has `start`, as NumPy's linspace has it.
    """
    if epoch >= warmup:
        return end
    return start + (end - start) * epoch / max(warmup - 1, 1)


def epsilon_within(epochs: float, start: float, end: float, warmup: float) -> float:
    """The radius after a number of epochs, whole or not: linear from `start` to `end`, then `end`.

    Args:
      epochs: done so far.
      start, end: radii in pixels.
      warmup: epochs of the ramp.
    """
    if epochs >= warmup:
        return end
    return start + (end - start) * epochs / warmup


def lowered(epochs: float, warmup: int, last: int) -> float:
    """How far a threshold on a ramp has come from `t0` to 0 after a number of epochs, 0 to 1.

    It stays at `t0` along the warm-up, is lowered evenly over the first half of what is left, and
    stays at 0 for the other half.

    Args:
      epochs: done so far, whole or not.
      warmup: epochs over which the radius grows.
      last: epochs of the run.

    Example:
      >>> [lowered(epochs, 2, 10) for epochs in (0, 2, 3, 6, 9.5)]
      [0.0, 0.0, 0.25, 1.0, 1.0]
    """
    if epochs <= warmup:
        return 0.0
    return min(2.0 * (epochs - warmup) / (last - warmup), 1.0)


def halving(epoch: int, base: float, warmup: int) -> float:
    """The learning rate of an epoch: `base` along the warm-up, then halved every 10 epochs.

    The first halving comes `HALVING_EPOCHS` after the warm-up's end.
    """
    return base * 0.5 ** (max(epoch - warmup, 0) // HALVING_EPOCHS)


def dropped(epoch: int, base: float, drops: Sequence[int], factor: float) -> float:
    """The learning rate of an epoch: `base`, multiplied by `factor` after each of `drops`.

    Args:
      epoch: counts from 0.
      base: in the first epoch.
      drops: epochs that are done when the rate falls.
      factor: of each fall.

    Example:
      >>> [dropped(epoch, 1.0, (2, 3), 0.5) for epoch in range(5)]
      [1.0, 1.0, 0.5, 0.25, 0.25]
    """
    return base * factor ** sum(epoch >= drop for drop in drops)


def cosine(epoch: int, base: float, warmup: int, epochs: int) -> float:
    """The learning rate of an epoch: `base` along the warm-up, then half a cosine towards 0.

    Args:
      epoch: counts from 0.
      base: in the first epoch.
      warmup, epochs: of the run.
    """
    if epoch < warmup:
        return base
    return 0.5 * base * (1.0 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))
