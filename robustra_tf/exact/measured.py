"""Margins of groups of conditions on a restricted network, in the units of their tolerances."""

from __future__ import annotations

import numpy as np

from robustra_tf.exact.case import Case
from robustra_tf.exact.leaves import Margins
from robustra_tf.exact.probe import Probe, Scale
from robustra_tf.exact.restriction import Restriction
from robustra_tf.exact.targets import Target


class Measured:
    """The margins of one case's groups, each in a unit of its own."""

    def __init__(self, case: Case, probe: Probe):
        """Prepares; `probe` says in which units tolerances are meant."""
        self._goal, self._probe = case.goal, probe

    def scales(self, number: int) -> list[Scale]:
        """Of each of a group's margins."""
        goal = self._goal
        places = goal.groups[number]
        return [self._probe.scale(goal.rows[place], float(goal.offset[place])) for place in places]

    def tolerance(self, number: int) -> float:
        """What the greatest of a group's margins must be above."""
        return max(scale.tolerance for scale in self.scales(number))

    def bound(self, number: int, bound: float) -> float:
        """What a bound in the units of each of a group's margins says of the greatest."""
        units = [scale.unit for scale in self.scales(number)]
        return bound * (min(units) if bound > 0 else max(units))

    def margins(self, number: int, r: Restriction) -> tuple[np.ndarray, np.ndarray]:
        """A group's margins on a restricted network: rows [k, n + m] and constants [k]."""
        goal, rows, constants = self._goal, [], []
        for place, scale in zip(goal.groups[number], self.scales(number), strict=True):
            row, constant = r.margin(goal.rows[place], float(goal.offset[place]))
            rows.append(row / scale.unit)
            constants.append(constant / scale.unit)
        return np.stack(rows), np.array(constants)

    def target(self, number: int, r: Restriction) -> Target:
        """The same, as a search of many domains takes it."""
        return Target(*self.margins(number, r), self.tolerance(number))

    def written(self, number: int, r: Restriction) -> Margins:
        """The same, as proofs take it."""
        units = np.array([scale.unit for scale in self.scales(number)])
        return Margins(*self.margins(number, r), units)
