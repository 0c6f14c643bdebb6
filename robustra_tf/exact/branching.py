"""Which ReLUs domains are split at."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np

from robustra_tf.exact.bounding import Bounding
from robustra_tf.exact.domains import Domains, joined

# Fewer domains than this are split more than once at a time.
_FEW = 16
# The weight of the better half, beside that of the worse, in the choice of a ReLU.
_BETTER_HALF = 0.5


class Splitting(NamedTuple):
    """How domains are split.

    Attributes:
      bounding: their bounds.
      batch: domains that are bounded at a time, at most.
      deadline: of `time.monotonic`, after which the costliest ReLUs are taken untried.
    """

    bounding: Bounding
    batch: int
    deadline: float

    def halves(self, domains: Domains, tolerance: np.ndarray) -> Domains:
        """Both halves of every domain, or more where there are few.

        Args:
          domains: with ReLUs that they may be split at, the costliest first.
          tolerance: [k] above which a domain is closed.
        """
        levels = 1
        few = min(_FEW, self.batch)
        while len(domains) * 2 ** (levels + 1) <= few and levels < domains.choices.shape[1]:
            levels += 1
        chosen = self._chosen(domains, tolerance, levels)
        for level in range(levels):
            unit = chosen[:, level]
            rows, whole = np.flatnonzero(unit >= 0), np.flatnonzero(unit < 0)
            domains = joined([domains.take(rows).halved(unit[rows]), domains.take(whole)])
            chosen = chosen[np.concatenate([rows, rows, whole])]
        return domains

    def _chosen(self, domains: Domains, tolerance: np.ndarray, levels: int) -> np.ndarray:
        """The ReLUs whose halves have the best bounds, the best first, -1 at the end: [k, levels].

        Both halves of every candidate are bounded by the multipliers of the whole.
        """
        count, candidates = domains.choices.shape
        unit = domains.choices.ravel()
        there = np.flatnonzero(unit >= 0)
        least = np.full((2, count * candidates), -np.inf)
        for part in np.array_split(there, max(1, -(-2 * len(there) // self.batch))):
            if time.monotonic() >= self.deadline:  # the costliest one will do
                break
            tried = domains.take(part // candidates).halved(unit[part])
            least[:, part] = self.bounding.bounded(tried).reshape(2, -1)
        # What closes a half closes it: by how much is worth nothing.
        least = np.minimum(least, np.repeat(tolerance, candidates))
        score = least.min(0) + _BETTER_HALF * least.max(0)
        best = np.argsort(-score.reshape(count, candidates), axis=1, kind="stable")[:, :levels]
        return np.take_along_axis(domains.choices, best, 1)
