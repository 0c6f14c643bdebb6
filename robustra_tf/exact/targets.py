"""What a search is to prove, in arrays, and the parts that it makes of its targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from robustra_tf.exact.dense import Columns, Lines
from robustra_tf.exact.domains import Domains
from robustra_tf.exact.ends import Ends
from robustra_tf.exact.inner import first_slopes
from robustra_tf.exact.multipliers import Problem


class Target(NamedTuple):
    """What is to be proven: of all inputs, that the greatest of some margins is positive.

    Attributes:
      rows, constants: [j, n + m] and [j] of the margins on the restriction.
      tolerance: what the greatest must be above.
    """

    rows: np.ndarray
    constants: np.ndarray
    tolerance: float


class Targets:
    """The targets of a search, and behind them parts of them, where some phases are fixed.

    Attributes:
      rows, constants: [t, j, n + m] and [t, j], on the columns that count. Of a target with fewer
        margins than others some are there again.
      counts: [t] how many margins are its own.
      phases: [t, m] what is fixed in all domains of it; int8.
      starts: [t, m] the multipliers that ascents over the whole of it begin from, not a number
        where that is CROWN's slope; float16.
      ends: bounds of the units for each of them.
      checked: the same as a checker takes them to be, once a proof leans on margins.
    """

    def __init__(self, columns: Columns, targets: Sequence[Target]):
        """Of whole balls."""
        most = max(len(target.constants) for target in targets)
        given = [
            columns.rows(np.resize(t.rows, (most, t.rows.shape[1])), np.resize(t.constants, most))
            for t in targets
        ]
        self.rows, self.constants = (np.stack(part) for part in zip(*given, strict=True))
        self.counts = np.array([len(target.constants) for target in targets])
        self.ends = Ends.of(columns.restriction, len(targets))
        self.checked: Ends | None = None
        self.phases = np.zeros((len(targets), columns.restriction.units), np.int8)
        self.starts = np.full(self.phases.shape, np.nan, np.float16)

    def __len__(self) -> int:
        return len(self.counts)

    def part(self, target: int, phases: np.ndarray, start: np.ndarray) -> int:
        """A new target: a part of an earlier one, with bounds of its own.

        Args:
          target: the earlier one.
          phases: [m] what is fixed in it, 1 or -1, else 0.
          start: [m] as `starts`.

        Returns:
          Its place.
        """
        for name in ("rows", "constants", "counts"):
            values = getattr(self, name)
            setattr(self, name, np.concatenate([values, values[[target]]]))
        self.phases = np.concatenate([self.phases, phases[None]])
        self.starts = np.concatenate([self.starts, start[None].astype(np.float16)])
        self.ends = self.ends.again(target)
        return len(self) - 1

    def roots(self, candidates: int) -> Domains:
        """The whole of every target, with room for so many candidates to branch on."""
        count, units = self.phases.shape
        slopes = first_slopes(self.ends.lines).astype(np.float16)
        shape = (count, min(candidates, units))
        return Domains(
            np.arange(count),
            np.full(count, -np.inf),
            self.phases.copy(),
            np.where(np.isnan(self.starts), slopes, self.starts),
            np.ones(self.constants.shape, np.float32),
            np.full(shape, -1),
            np.zeros(shape, np.float32),
        )

    def problem(self, domains: Domains, dtype: type, ends: Ends | None = None) -> Problem:
        """The margins of domains, between the units' bounds of their targets, or other ones."""
        which = domains.target
        parts = (self.rows[which], self.constants[which], domains.phases)
        lines = Lines(*(part[which] for part in (ends or self.ends).lines))
        tensors = (tf.constant(part.astype(dtype)) for part in parts)
        return Problem(*tensors, lines=lines.tensors(tf.as_dtype(dtype)))
