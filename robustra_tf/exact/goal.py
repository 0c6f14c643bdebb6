"""What must not be reached from one image, group by group of conditions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from robustra_tf.conditions import Conditions


class Goal(NamedTuple):
    """The conditions of one example; a margin is that of a condition, `-(c . f + d)`.

    Attributes:
      conditions: of a batch of one.
      groups: by its number, the places of a group's conditions.
    """

    conditions: Conditions
    groups: dict[int, np.ndarray]

    @classmethod
    def of(cls, conditions: Conditions) -> Goal:
        """The goal of a batch of one."""
        (group,) = conditions.group
        numbers = np.unique(group[group >= 0]).tolist()
        return cls(conditions, {number: np.flatnonzero(group == number) for number in numbers})

    @property
    def rows(self) -> np.ndarray:
        """`c` [k, classes]."""
        return self.conditions.rows[0]

    @property
    def offset(self) -> np.ndarray:
        """`d` [k]."""
        return self.conditions.offset[0]

    def nearest(self, outputs: np.ndarray) -> int:
        """The number of the group that outputs [classes] are the furthest inside of."""
        values = self.conditions.values(outputs[None])[0]
        return max(self.groups, key=lambda number: values[self.groups[number]].min())

    def margins(self, outputs: np.ndarray) -> dict[int, float]:
        """Of each group its greatest margin at outputs [classes]."""
        values = self.conditions.values(outputs[None])[0]
        return {number: float(-values[places].min()) for number, places in self.groups.items()}
