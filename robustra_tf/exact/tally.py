"""What a search knows of each of its targets and of their parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Tally:
    """Numbers of every target of a search, parts of them behind.

    Attributes:
      whole: [t] of each, the target that it is a part of; its own place where it is none.
      tolerance: [t] what is to be proven.
      proven: [t] the least bound of its domains that are closed.
      nodes: [t] how many domains were bounded.
      cut: [t] whether its bounds say something of points alone where it does not hold.
      parted: [t] how often its domains were made parts.
    """

    def __init__(self, tolerances: Sequence[float]):
        """Of whole targets."""
        count = len(tolerances)
        self.whole = np.arange(count)
        self.tolerance = np.array(tolerances)
        self.proven = np.full(count, np.inf)
        self.nodes = np.zeros(count, int)
        self.cut = np.zeros(count, bool)
        self.parted = np.zeros(count, int)

    def part(self, place: int) -> None:
        """One more, a part of a target whose bounds are cut."""
        new = {
            "whole": self.whole[place],
            "tolerance": self.tolerance[place],
            "proven": np.inf,
            "nodes": 0,
            "cut": True,
            "parted": 0,
        }
        for name, value in new.items():
            values = getattr(self, name)
            setattr(self, name, np.append(values, np.asarray(value, values.dtype)))

    def is_part(self, place: int) -> bool:
        """Whether it is one."""
        return bool(self.whole[place] != place)
