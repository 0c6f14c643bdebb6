"""What the checker counts for rounding.

With `u = 2^-24` a float32 sum of `n` terms is within `gamma_n = n u / (1 - n u)` times the sum of
absolute values, in any order (Higham 2002, section 3.1); the same holds with `u = 2^-53` for what
is computed here. Every affine operation is allowed to be off by that much, and its backward pass is
charged for it at the next ReLU.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import numpy as np

UNIT32, UNIT64 = 2.0**-24, 2.0**-53
#: Float32's smallest normal number, and a quarter of its largest.
SMALLEST, LARGEST = 2.0**-126, 2.0**126
#: What underflow in float64 can add up to in a whole bound, many times over.
TINY = 1e-110
#: A handful of float64 roundings; and a factor on what is known up to thousands of them.
FEW, ROUNDED = 8 * UNIT64, 1 + 2.0**-30


class Rounding(NamedTuple):
    """What a derivation counts.

    Attributes:
      gamma: the relative error of the longest sum in float64; 0 of exact arithmetic.
      float32: whether the float32 forward pass counts beside the network in real numbers.
    """

    gamma: float
    float32: bool

    @property
    def exact(self) -> bool:
        """Whether numbers are fractions."""
        return self.gamma == 0


def counted(numbers: int, float32: bool) -> Rounding:
    """For sums of at most so many numbers, with room for some operations more on each."""
    return Rounding(8 * UNIT64 * (numbers + 100), float32)


#: Fractions round nothing.
EXACT = Rounding(0.0, False)


def fractions(values: np.ndarray) -> np.ndarray:
    """Float64 numbers as fractions of the same values."""
    found = np.empty(values.shape, object)
    found.reshape(-1)[:] = [Fraction(value) for value in values.reshape(-1).tolist()]
    return found


#: Differences from what follows that are no objection, as a share of the numbers summed up: for
#: plain modes in either direction, for `sound` only where the claim is the weaker one.
TOLERANCES = {"float32": 1e-4, "float64": 1e-9, "sound": 1e-5}
