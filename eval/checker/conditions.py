"""What margins are of, and when they suffice.

A condition `c . f + d >= 0` on the logits has the margin `-(c . f + d)`. Conditions come in groups:
outputs are unsafe where all of one group hold, so that one positive margin keeps a group out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

#: The group of a condition that is none: a label's margin over itself.
NO_GROUP = -1


class Conditions(NamedTuple):
    """Of `n` examples: `c` [n, k, logits], `d` [n, k], and groups [n, k], integers from -1."""

    rows: np.ndarray
    offset: np.ndarray
    group: np.ndarray

    @property
    def terms(self) -> np.ndarray:
        """How many logits a condition reads, [n, k]."""
        return np.count_nonzero(self.rows, axis=2)

    def read(self, values: np.ndarray) -> np.ndarray:
        """`c . values`, [n, k], of [n, logits]."""
        return (self.rows @ values[:, :, None])[..., 0]

    def weighed(self, sizes: np.ndarray) -> np.ndarray:
        """`|c| . sizes`, [n, k], of [n, logits]."""
        return (np.abs(self.rows) @ sizes[:, :, None])[..., 0]

    def kept_out(self, lower: np.ndarray) -> np.ndarray:
        """Whether lower bounds [n, k] of margins keep every group out, and there is one: [n]."""
        proven = (lower > 0) & np.isfinite(lower)
        found = np.full(len(lower), True)
        for number in np.unique(self.group[self.group != NO_GROUP]):
            own = self.group == number
            found &= (proven & own).any(1) | ~own.any(1)
        return found & (self.group >= 0).any(1)


def of_labels(labels: np.ndarray, classes: int) -> Conditions:
    """`f_t - f_y >= 0` for every class `t`, each a group; of the label itself none."""
    count = len(labels)
    rows = np.repeat(np.eye(classes)[None], count, 0)
    rows[np.arange(count), :, labels] -= 1.0
    own = np.arange(classes) == labels[:, None]
    group = np.where(own, NO_GROUP, np.arange(classes))
    return Conditions(rows, np.zeros((count, classes)), group)
