"""Bounds of units where a target is still to be decided."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from robustra_tf.exact.ascent import Engine, Pace, engine
from robustra_tf.exact.dense import Columns, Dense
from robustra_tf.exact.ends import Ends, Rows
from robustra_tf.exact.inner import as_type, first_slopes
from robustra_tf.exact.multipliers import Kind, Multipliers, Problem
from robustra_tf.exact.restriction import SLACK
from robustra_tf.exact.targets import Targets


class Known(NamedTuple):
    """What ascents over a target have come to, for those over its parts to begin from.

    Attributes:
      units: [c].
      phases: [m] what was fixed.
      unit, mix: [2c, m] and [2c, 1 + j] multipliers, those of lower ends first.
    """

    units: np.ndarray
    phases: np.ndarray
    unit: np.ndarray
    mix: np.ndarray


class Cutting:
    """Better bounds of some units of a target, for points where it does not hold.

    Points where the greatest of a target's margins is above the tolerance need no bounds: those of
    a unit may rest on all margins being at most that, and on the phases that are fixed in the
    target. A bound of the target is then true of such points alone: above the tolerance it says
    that there are none, and no more.
    """

    def __init__(
        self, columns: Columns, networks: tuple[Dense, Dense], kind: Kind, targets: Targets
    ):
        """Prepares: of a restriction's columns, in float32 and in float64."""
        self._columns, self._targets = columns, targets
        self._single, self._double = networks
        self._kind = kind._replace(cut=True)
        self._known: dict[int, Known] = {}

    def part(self, target: int, part: int) -> None:
        """What is known of a target is where its part begins."""
        if target in self._known:
            self._known[part] = self._known[target]

    def cut(
        self,
        target: int,
        units: np.ndarray,
        tolerance: float,
        pace: Pace,
        keep: Callable[[Rows], None] | None = None,
    ) -> bool:
        """Better bounds of some units; true if there is nothing between those of one.

        Args:
          target: its place.
          units: their numbers [c], increasing.
          tolerance: of the target.
          pace: of the ascent.
          keep: is given the rows of one node's units after the other, where a proof is kept. Each
            part then rests on what those before have left.
        """
        targets = self._targets
        if keep is None:
            given, _ = self._climbed(target, units, tolerance, pace)
            found = self._bounds(targets.ends, target, units, tolerance, given)
            return targets.ends.tighten(target, units, *found)
        targets.checked = targets.checked or targets.ends.copy()
        node = self._columns.restriction.node[units]
        parts = (units[node == index] for index in np.unique(node))
        return any(self._cut_and_kept(target, part, tolerance, pace, keep) for part in parts)

    def _cut_and_kept(
        self,
        target: int,
        units: np.ndarray,
        tolerance: float,
        pace: Pace,
        keep: Callable[[Rows], None],
    ) -> bool:
        """`cut` of units of one node, by rows as they are written."""
        given, written = self._climbed(target, units, tolerance, pace, half=True)
        ends = self._targets.ends
        both = (ends, tolerance), (self._targets.checked or ends, 0.0)
        found = [self._bounds(each, target, units, above, given) for each, above in both]
        known = np.isfinite([end for pair in found for end in pair]).all(0)
        if not known.any():
            return False
        keep(written.take(np.tile(known, 2)))
        found = [[end[known] for end in pair] for pair in found]
        nowhere = [
            each.tighten(target, units[known], *pair)
            for (each, _), pair in zip(both, found, strict=True)
        ]
        return all(nowhere)

    def _climbed(
        self, target: int, units: np.ndarray, tolerance: float, pace: Pace, half: bool = False
    ) -> tuple[Multipliers, Rows]:
        """The multipliers in float64 that an ascent finds for both ends of units, and as rows."""
        problem = self._problem(self._targets.ends, target, units, tolerance)
        first = Multipliers(*(tf.constant(part) for part in self._first(target, units)))
        functions = self._functions
        _, best = functions.climbed(self._single, as_type(problem, tf.float32), first, pace)
        unit, mix = best.unit.numpy(), best.mix.numpy()
        phases, count = self._targets.phases[target], int(self._targets.counts[target])
        self._known[target] = Known(units, phases, unit.astype(np.float16), mix)
        if half:
            unit = unit.astype(np.float16)
            mix = _folded(mix, count)
        signs = np.repeat([1, -1], len(units))
        rows = Rows(target, np.tile(units, 2), signs, unit, mix[:, 1 : 1 + count])
        parts = (tf.constant(part.astype(np.float64)) for part in (unit, mix))
        return Multipliers(*parts), rows

    def _first(self, target: int, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The multipliers [2c, m] and [2c, 1 + j], float32, that an ascent begins from."""
        phases, ends = self._targets.phases[target], self._targets.ends
        slopes = np.where(phases == 0, first_slopes(ends.of_target(target)), np.float32(0.0))
        unit = np.repeat(slopes, 2 * len(units), axis=0)
        mix = np.zeros((len(unit), 1 + self._targets.constants.shape[1]), np.float32)
        mix[:, 0] = 1.0
        known = self._known.get(target)
        if known is not None:
            _, here, there = np.intersect1d(units, known.units, return_indices=True)
            here = np.concatenate([here, here + len(units)])
            there = np.concatenate([there, there + len(known.units)])
            # What was fixed since then had a slope, which is no multiplier of a phase.
            unit[here] = np.where(known.phases == phases, known.unit[there], np.float32(0.0))
            mix[here] = known.mix[there]
        return unit, mix

    def _bounds(
        self, ends: Ends, target: int, units: np.ndarray, above: float, given: Multipliers
    ) -> tuple[np.ndarray, np.ndarray]:
        """Both ends [c] of units where no margin is more than `above`."""
        problem = self._problem(ends, target, units, above)
        found = self._functions.certified(self._double, problem, given).numpy()
        found -= SLACK * (1.0 + np.abs(found))
        return found[: len(units)], -found[len(units) :]

    @property
    def _functions(self) -> Engine:
        """The functions of problems that are cut."""
        return engine(self._single.layout, self._kind, self._targets.constants.shape[1] + 1)

    def _problem(self, ends: Ends, target: int, units: np.ndarray, above: float) -> Problem:
        """Both ends of units, lower ones first, with what margins are above `above`."""
        r, count, targets = self._columns.restriction, 2 * len(units), self._targets
        rows, constants = self._columns.rows(r.weights[units].toarray(), r.offset[units])
        rows = np.pad(rows, ((0, 0), (0, targets.rows.shape[2] - rows.shape[1])))
        both = np.concatenate([rows, -rows]), np.concatenate([constants, -constants])
        shared = targets.rows[target], targets.constants[target] - above
        problem = Problem(
            np.concatenate([both[0][:, None], np.repeat(shared[0][None], count, 0)], 1),
            np.concatenate([both[1][:, None], np.repeat(shared[1][None], count, 0)], 1),
            np.repeat(targets.phases[[target]].astype(float), count, 0),
            ends.of_target(target),
        )
        return as_type(tf.nest.map_structure(tf.constant, problem), tf.float64)


def _folded(mix: np.ndarray, count: int) -> np.ndarray:
    """Weights [k, 1 + j] of margins of which only so many are others: theirs in all, float32."""
    own = np.zeros_like(mix)
    own[:, 0] = mix[:, 0]
    for place in range(mix.shape[1] - 1):
        own[:, 1 + place % count] += mix[:, 1 + place]
    return own
