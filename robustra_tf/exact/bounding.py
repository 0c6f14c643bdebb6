"""Bounds of domains of one restricted network, for several targets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from robustra_tf.exact.ascent import Engine, Pace, engine
from robustra_tf.exact.dense import Columns, Lines, dense
from robustra_tf.exact.domains import Domains
from robustra_tf.exact.ends import Ends, Rows
from robustra_tf.exact.inner import as_type, first_slopes
from robustra_tf.exact.multipliers import Kind, Multipliers, Problem
from robustra_tf.exact.restriction import SLACK, Restriction

# How far two ways to compute a unit may be apart: a share of all that is added up.
_ROUNDING = 1e-9


class Target(NamedTuple):
    """What is to be proven: of all inputs, that the greatest of some margins is positive.

    Attributes:
      rows, constants: [j, n + m] and [j] of the margins on the restriction.
      tolerance: what the greatest must be above.
    """

    rows: np.ndarray
    constants: np.ndarray
    tolerance: float


class Seen(NamedTuple):
    """What the minima of relaxations say of k domains.

    Attributes:
      choices: [k, c] the open ReLUs whose relaxations cost the most; -1 where there are fewer.
      pull: [k, c] the coefficients on them.
      point: [k, n] the inputs.
      margin: [k] the network's own margins there, in float32.
    """

    choices: np.ndarray
    pull: np.ndarray
    point: np.ndarray
    margin: np.ndarray

    def on(self, domains: Domains) -> Domains:
        """The domains that were looked at, with what they may be split at."""
        return dataclasses.replace(domains, choices=self.choices, pull=self.pull)


class Bounding:
    """The compiled bounds of one restricted network, of domains in arrays."""

    def __init__(
        self,
        restriction: Restriction,
        centre: np.ndarray,
        l1_radius: float | None,
        targets: Sequence[Target],
    ):
        """Prepares; `restriction`, `centre` and `l1_radius` are what `encode` takes."""
        self._restriction = restriction
        self._columns = Columns.of(restriction)
        self._single, self._double = (
            dense(self._columns, centre, l1_radius, dtype) for dtype in (tf.float32, tf.float64)
        )
        most = max(len(target.constants) for target in targets)
        self._kind = Kind("linf" if l1_radius is None else "l1")
        self._functions = engine(self._single.layout, self._kind, most)
        # Of the units where a target is still to be decided; and, once any are cut and a proof is
        # kept, where none of its margins is above 0, which is what a checker takes them to be.
        self._ends = Ends.of(restriction, len(targets))
        self._checked: Ends | None = None
        self._counts = [len(target.constants) for target in targets]
        # What is repeated is no other margin.
        given = [
            self._columns.rows(
                np.resize(t.rows, (most, t.rows.shape[1])), np.resize(t.constants, most)
            )
            for t in targets
        ]
        self._rows, self._constants = (np.stack(part) for part in zip(*given, strict=True))

    @property
    def numbers(self) -> int:
        """How many numbers a domain's margins are."""
        return max(1, self._rows.shape[1] * self._rows.shape[2])

    def check(self, points: np.ndarray) -> None:
        """Refuses matrices that are not the restricted network at the inputs [k, n].

        Raises:
          ValueError: with by how much.
        """
        u, z = self._restriction.values(points)
        moving, n = self._columns.moving, self._restriction.pixels
        found = self._functions.valued(self._double, tf.constant(points[:, moving])).numpy()
        difference = np.abs(found[:, len(moving) :] - u[:, n:]).max(0, initial=0.0)
        size = np.abs(z).max(0, initial=0.0) + self._double.reach.numpy()
        if not (difference <= _ROUNDING * size).all():
            raise ValueError(
                "encoding: expected the restricted network's own values at points of the ball, got "
                f"a difference of {difference.max():.3g}: a fault of the verifier, not a verdict"
            )

    def roots(self, candidates: int) -> Domains:
        """The whole ball for every target, with room for so many candidates to branch on."""
        count, units = len(self._rows), self._restriction.units
        return Domains(
            np.arange(count),
            np.full(count, -np.inf),
            np.zeros((count, units), np.int8),
            first_slopes(self._ends.lines).astype(np.float16),
            np.ones(self._constants.shape, np.float32),
            np.full((count, min(candidates, units)), -1),
            np.zeros((count, min(candidates, units)), np.float32),
        )

    def climbed(self, domains: Domains, pace: Pace) -> Domains:
        """With the multipliers and the bounds, those of float32, that an ascent leads to."""
        best, kept = self._functions.climbed(self._single, *self._asked(domains), pace)
        bound = best.numpy().astype(float)
        bound = np.where(np.isfinite(bound), bound, -np.inf)
        unit, mix = (part.numpy() for part in kept)
        return dataclasses.replace(domains.with_multipliers(unit, mix), bound=bound)

    def bounded(self, domains: Domains) -> np.ndarray:
        """What the multipliers of domains prove in float32: [k]."""
        found = self._functions.bounded(self._single, *self._asked(domains)).numpy()
        return np.where(np.isfinite(found), found, -np.inf)

    def certified(self, domains: Domains) -> np.ndarray:
        """What they prove in float64, less its rounding: [k]; nothing where no checker would."""
        given = as_type(self._given(domains), tf.float64)
        problem = self._problem(domains, np.float64)
        found = self._functions.certified(self._double, problem, given).numpy()
        if self._checked is None:
            return found
        problem = self._problem(domains, np.float64, self._checked)
        checked = self._functions.certified(self._double, problem, given).numpy()
        return np.where(checked > 0, found, -np.inf)

    def seen(self, domains: Domains) -> Seen:
        """What the minima of their relaxations say."""
        found = self._functions.explored(self._single, *self._asked(domains))
        best = tf.math.top_k(found.score, domains.choices.shape[1])
        choices = np.where(np.isfinite(best.values.numpy()), best.indices.numpy(), -1)
        pull = np.take_along_axis(found.pull.numpy(), best.indices.numpy(), 1)
        point = self._columns.image(found.point.numpy().astype(float))
        return Seen(choices, pull, point, found.margin.numpy())

    def cut(
        self,
        target: int,
        units: np.ndarray,
        tolerance: float,
        pace: Pace,
        keep: Callable[[Rows], None] | None = None,
    ) -> bool:
        """Better bounds of some units where a target does not hold; true if that is nowhere.

        Points where the greatest of its margins is above the tolerance need no bounds: those of a
        unit may rest on all margins being at most that. A bound of the target is then true of such
        points alone: above the tolerance it says that there are none, and no more.

        Args:
          target: its place.
          units: their numbers [c], increasing.
          tolerance: of the target.
          pace: of the ascent.
          keep: is given the rows of one node's units after the other, where a proof is kept. Each
            part then rests on what those before have left.
        """
        if keep is None:
            given, _ = self._climbed_cut(target, units, tolerance, pace)
            found = self._cut_bounds(self._ends, target, units, tolerance, given)
            return self._ends.tighten(target, units, *found)
        self._checked = self._checked or self._ends.copy()
        node = self._restriction.node[units]
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
        given, written = self._climbed_cut(target, units, tolerance, pace, half=True)
        both = (self._ends, tolerance), (self._checked or self._ends, 0.0)
        found = [self._cut_bounds(ends, target, units, above, given) for ends, above in both]
        known = np.isfinite([end for pair in found for end in pair]).all(0)
        if not known.any():
            return False
        keep(written.take(np.tile(known, 2)))
        found = [[end[known] for end in pair] for pair in found]
        nowhere = [
            ends.tighten(target, units[known], *pair)
            for (ends, _), pair in zip(both, found, strict=True)
        ]
        return all(nowhere)

    def _climbed_cut(
        self, target: int, units: np.ndarray, tolerance: float, pace: Pace, half: bool = False
    ) -> tuple[Multipliers, Rows]:
        """The multipliers in float64 that an ascent finds for both ends of units, and as rows."""
        margins, count = self._rows.shape[1], 2 * len(units)
        problem = self._cut_problem(self._ends, target, units, tolerance)
        functions = self._cutting
        first = np.repeat(first_slopes(self._ends.of_target(target)), count, axis=0)
        mix = np.concatenate([np.ones((count, 1)), np.zeros((count, margins))], 1)
        given = Multipliers(tf.constant(first), tf.constant(mix, tf.float32))
        _, best = functions.climbed(self._single, as_type(problem, tf.float32), given, pace)
        unit, mix = best.unit.numpy(), best.mix.numpy()
        if half:
            unit = unit.astype(np.float16)
            mix = _folded(mix, self._counts[target])
        signs = np.repeat([1, -1], len(units))
        rows = Rows(target, np.tile(units, 2), signs, unit, mix[:, 1 : 1 + self._counts[target]])
        parts = (tf.constant(part.astype(np.float64)) for part in (unit, mix))
        return Multipliers(*parts), rows

    def _cut_bounds(
        self, ends: Ends, target: int, units: np.ndarray, above: float, given: Multipliers
    ) -> tuple[np.ndarray, np.ndarray]:
        """Both ends [c] of units where no margin is more than `above`."""
        problem = self._cut_problem(ends, target, units, above)
        found = self._cutting.certified(self._double, problem, given).numpy()
        found -= SLACK * (1.0 + np.abs(found))
        return found[: len(units)], -found[len(units) :]

    @property
    def _cutting(self) -> Engine:
        """The functions of problems that are cut."""
        return engine(self._single.layout, self._kind._replace(cut=True), self._rows.shape[1] + 1)

    def _cut_problem(self, ends: Ends, target: int, units: np.ndarray, above: float) -> Problem:
        """Both ends of units, lower ones first, with what margins are above `above`."""
        r, count = self._restriction, 2 * len(units)
        rows, constants = self._columns.rows(r.weights[units].toarray(), r.offset[units])
        rows = np.pad(rows, ((0, 0), (0, self._rows.shape[2] - rows.shape[1])))
        both = np.concatenate([rows, -rows]), np.concatenate([constants, -constants])
        shared = self._rows[target], self._constants[target] - above
        problem = Problem(
            np.concatenate([both[0][:, None], np.repeat(shared[0][None], count, 0)], 1),
            np.concatenate([both[1][:, None], np.repeat(shared[1][None], count, 0)], 1),
            np.zeros((count, r.units)),
            ends.of_target(target),
        )
        return as_type(tf.nest.map_structure(tf.constant, problem), tf.float64)

    def _asked(self, domains: Domains) -> tuple[Problem, Multipliers]:
        return self._problem(domains, np.float32), self._given(domains)

    def _problem(self, domains: Domains, dtype: type, ends: Ends | None = None) -> Problem:
        which = domains.target
        parts = (self._rows[which], self._constants[which], domains.phases)
        found = (ends or self._ends).lines
        lines = Lines(*(part[which] for part in found)).tensors(tf.as_dtype(dtype))
        return Problem(*(tf.constant(part.astype(dtype)) for part in parts), lines=lines)

    def _given(self, domains: Domains) -> Multipliers:
        parts = (domains.unit, domains.mix)
        return Multipliers(*(tf.constant(part.astype(np.float32)) for part in parts))


def _folded(mix: np.ndarray, count: int) -> np.ndarray:
    """Weights [k, 1 + j] of margins of which only so many are others: theirs in all, float32."""
    own = np.zeros_like(mix)
    own[:, 0] = mix[:, 0]
    for place in range(mix.shape[1] - 1):
        own[:, 1 + place % count] += mix[:, 1 + place]
    return own
