"""Domains that multipliers prove, and targets that better bounds of units do."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np

from robustra_tf.exact.ascent import Pace
from robustra_tf.exact.bounding import Bounding
from robustra_tf.exact.domains import Domains
from robustra_tf.exact.options import SearchOptions
from robustra_tf.exact.proving import Batch
from robustra_tf.exact.tally import Tally

# What a target's bound has to gain for cutting its units another time.
_GAIN = 0.05


class Effort(NamedTuple):
    """What cutting the bounds of a target takes.

    Attributes:
      units: how many of the costliest.
      times: at most.
      steps, rate: of the ascent over them.
      whole: steps of the ascent over the target itself, before each time.
    """

    units: int
    times: int
    steps: int
    rate: float
    whole: int


# Of targets and of their parts, which begin from what ascents have come to; and where all rows are
# to be written down.
_EFFORT, PART_EFFORT = Effort(96, 2, 20, 0.3, 60), Effort(96, 2, 20, 0.3, 20)
_WRITTEN_EFFORT = Effort(32, 4, 40, 0.3, 60)


class Closing:
    """Says what is proven, in float64, and keeps what proves it where that is wanted."""

    def __init__(
        self, bounding: Bounding, tally: Tally, options: SearchOptions, proof: Batch | None
    ):
        """Prepares; `tally` takes in what is proven."""
        self._bounding, self._tally = bounding, tally
        self._options, self._proof = options, proof

    def closed(self, domains: Domains) -> np.ndarray:
        """Which of the domains are proven: [k]."""
        tolerance = self._tally.tolerance[domains.target]
        closed = domains.bound > tolerance
        if closed.any():
            likely = domains.take(closed)
            certain = self._bounding.certified(likely)
            proven = certain > tolerance[closed]
            if self._proof is not None:
                self._proof.close(likely.take(proven))
            # Where the margin is above the tolerance, cut bounds say nothing of it.
            least = np.nextafter(tolerance[closed], np.inf)
            cut = self._tally.cut[likely.target]
            certain = np.where(cut, np.minimum(certain, least), certain)
            np.minimum.at(self._tally.proven, likely.target[proven], certain[proven])
            closed[closed] = proven
        return closed

    def cut(self, place: int, deadline: float) -> bool:
        """Whether bounds that are cut, as often as that gains, close a target as a whole.

        Args:
          place: the target, `tally.cut` already true of it.
          deadline: of `time.monotonic`.
        """
        tolerance, before = float(self._tally.tolerance[place]), -np.finfo(float).max
        keep = () if self._proof is None else (self._proof.cut,)
        effort = self._effort(place)
        for _ in range(effort.times):
            if time.monotonic() >= deadline:
                return False
            pace = Pace.of(effort.whole, self._options.rate, deadline)
            whole = self._bounding.roots(effort.units).take(np.array([place]))
            whole = self._bounding.climbed(whole, pace)
            if self.closed(whole).all():
                return True
            if not whole.bound[0] > (1 - _GAIN) * before:
                return False
            before = whole.bound[0]
            units = self._bounding.seen(whole).choices[0]
            units = np.sort(units[units >= 0])
            if not len(units):
                return False
            pace = Pace.of(effort.steps, effort.rate, deadline)
            if self._bounding.cut(place, units, tolerance, pace, *keep):
                if self._proof is not None:
                    self._proof.nowhere(place)
                proven = self._tally.proven
                proven[place] = min(proven[place], np.nextafter(tolerance, np.inf))
                return True
        return False

    def _effort(self, place: int) -> Effort:
        if self._proof is not None:
            return _WRITTEN_EFFORT
        return PART_EFFORT if self._tally.is_part(place) else _EFFORT
