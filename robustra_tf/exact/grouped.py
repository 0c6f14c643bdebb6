"""The conditions of a case, in the order of their groups."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from robustra_tf.exact.case import Case
from robustra_tf.exact.halfspaces import Groups
from robustra_tf.exact.probe import Probe


class Grouped(NamedTuple):
    """The conditions of all groups, group by group, each in units of what it has to be above.

    Attributes:
      rows, offset: `c` [r, outputs] and `d` [r].
      least: [r], what the margins `-(c . f + d)` must be above.
      groups: of the rows; `numbers` [g] are theirs.
      distinct, which: the rows without repetition, and where among them each is.
    """

    rows: np.ndarray
    offset: np.ndarray
    least: np.ndarray
    groups: Groups
    numbers: list[int]
    distinct: np.ndarray
    which: np.ndarray

    @classmethod
    def of(cls, case: Case, probe: Probe) -> Grouped:
        """Those of a case; `probe` says what margins have to be above."""
        goal = case.goal
        order = np.concatenate(list(goal.groups.values()))
        rows, offset = goal.rows[order], goal.offset[order]
        least = [probe.scale(c, d).least for c, d in zip(rows, offset, strict=True)]
        groups = Groups.of([len(places) for places in goal.groups.values()])
        distinct, which = np.unique(rows, axis=0, return_inverse=True)
        which = which.reshape(-1)
        numbers = list(goal.groups)
        return cls(rows, offset, np.array(least), groups, numbers, distinct, which)

    def margins(self, outputs: np.ndarray) -> np.ndarray:
        """`-(c . f + d)`, [m, r]."""
        return -(outputs @ self.rows.T + self.offset)
