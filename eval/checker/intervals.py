"""Derives margins by intervals alone, as `derive` does by backward passes.

Layer by layer `lower` and `upper` of every ReLU's input must be what interval arithmetic gives from
the claimed ones before; the last dense layer and the difference of two logits are taken as one.
"""

from __future__ import annotations

import numpy as np

from .claim import Band
from .derive import Check, Derived
from .maxima import Maximum, ends
from .operations import Dense
from .rejection import RejectedError
from .rounding import FEW, SMALLEST, TINY
from .state import State, weighed


class Intervals(Check):
    """One pass over what is claimed by intervals; the bands' slopes mean nothing."""

    def _radius(self, index: int, state: State, by_intervals: bool) -> np.ndarray:
        return state.width

    def _check_band(self, where: str, band: Band, below: State, radius: np.ndarray) -> None:
        for name, values in (("lower", band.lower), ("upper", band.upper)):
            if not np.isfinite(values).all():
                raise RejectedError(where, name, "holds numbers that are not finite")
        radius = radius + self.few * (radius + np.abs(below.centre)) + self.tiny
        scale = self.tolerance * below.magnitude
        self.compare(where, "lower", band.lower, below.centre - radius, scale)
        self.compare(where, "upper", -band.upper, -below.centre - radius, scale)
        if not (band.lower <= band.upper).all():
            raise RejectedError(where, "upper", "is below lower")

    def _past_relu(self, index: int, band: Band, below: State, radius: np.ndarray) -> State:
        low, high = np.maximum(band.lower, 0.0), np.maximum(band.upper, 0.0)
        width = 0.5 * (high - low) + self.few * high
        if self.sound:
            width = width + np.where(band.upper > 0, SMALLEST, 0.0)
        return State(0.5 * (low + high), width, np.zeros_like(width))

    def _past_maximum(self, state: State, found: Maximum, room: np.ndarray | float) -> State:
        """No wider than the sum and than the ends of both sides, about the middle of the two."""
        low, high = ends(found, self.states)
        room = room + SMALLEST * self.sound
        low = np.maximum(low - room, state.centre - state.width)
        high = np.minimum(high + room, state.centre + state.width)
        width = 0.5 * (high - low)
        if self.sound:
            sizes = np.abs(state.centre) + state.width + np.abs(low) + np.abs(high)
            width = width + FEW * sizes + TINY
        return State(0.5 * (low + high), width, state.pushed)

    def _check_margins(self, last: State, safe: np.ndarray) -> Derived:
        asked, node = self.claim.conditions, self.nodes[-1]
        upper = asked.read(last.centre)
        if isinstance(node.op, Dense):
            before = self.states[node.inputs[0]]
            upper = upper + weighed(np.abs(asked.rows @ node.op.kernel.T), before.width)
            own = self.offs.get(len(self.nodes) - 1, np.zeros_like(last.width))
        else:
            own = last.width
        upper = upper + asked.weighed(own)
        return self._compared(upper, last._replace(pushed=np.zeros_like(last.pushed)), safe)
