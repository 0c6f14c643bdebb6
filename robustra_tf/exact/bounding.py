"""Bounds of domains of one restricted network, for several targets."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from robustra_tf.exact.ascent import Pace, engine
from robustra_tf.exact.dense import Columns, Lines, dense
from robustra_tf.exact.domains import Domains
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
        # Bounds of the units where a target is still to be decided: [targets, m].
        ends = (restriction.lower, restriction.upper)
        self._lower, self._upper = (np.repeat(end[None], len(targets), 0) for end in ends)
        self._lines = Lines.of(restriction.relu, self._lower, self._upper)
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
            first_slopes(self._lines).astype(np.float16),
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
        """What they prove in float64, less its rounding: [k]."""
        problem = self._problem(domains, np.float64)
        given = as_type(self._given(domains), tf.float64)
        return self._functions.certified(self._double, problem, given).numpy()

    def seen(self, domains: Domains) -> Seen:
        """What the minima of their relaxations say."""
        found = self._functions.explored(self._single, *self._asked(domains))
        best = tf.math.top_k(found.score, domains.choices.shape[1])
        choices = np.where(np.isfinite(best.values.numpy()), best.indices.numpy(), -1)
        pull = np.take_along_axis(found.pull.numpy(), best.indices.numpy(), 1)
        point = self._columns.image(found.point.numpy().astype(float))
        return Seen(choices, pull, point, found.margin.numpy())

    def cut(self, target: int, units: np.ndarray, tolerance: float, pace: Pace) -> bool:
        """Better bounds of some units where a target does not hold; true if that is nowhere.

        Points where the greatest of its margins is above the tolerance need no bounds: those of a
        unit may rest on all margins being at most that. A bound of the target is then true of such
        points alone: above the tolerance it says that there are none, and no more.

        Args:
          target: its place.
          units: their numbers [c].
          tolerance: of the target.
          pace: of the ascent.
        """
        r, margins = self._restriction, self._rows.shape[1]
        rows, constants = self._columns.rows(r.weights[units].toarray(), r.offset[units])
        rows = np.pad(rows, ((0, 0), (0, self._rows.shape[2] - rows.shape[1])))
        both = np.concatenate([rows, -rows]), np.concatenate([constants, -constants])
        count, lines = 2 * len(units), Lines(*(part[target][None] for part in self._lines))
        shared = self._rows[target], self._constants[target] - tolerance
        problem = Problem(
            np.concatenate([both[0][:, None], np.repeat(shared[0][None], count, 0)], 1),
            np.concatenate([both[1][:, None], np.repeat(shared[1][None], count, 0)], 1),
            np.zeros((count, r.units)),
            lines,
        )
        problem = as_type(tf.nest.map_structure(tf.constant, problem), tf.float64)
        functions = engine(self._single.layout, self._kind._replace(cut=True), margins + 1)
        unit = tf.constant(np.repeat(first_slopes(lines), count, axis=0))
        mix = tf.concat([tf.ones((count, 1)), tf.zeros((count, margins))], 1)
        given = Multipliers(unit, mix)
        _, best = functions.climbed(self._single, as_type(problem, tf.float32), given, pace)
        found = functions.certified(self._double, problem, as_type(best, tf.float64)).numpy()
        found -= SLACK * (1.0 + np.abs(found))
        lower, upper = self._lower[target], self._upper[target]
        lower[units] = np.maximum(lower[units], found[: len(units)])
        upper[units] = np.minimum(upper[units], -found[len(units) :])
        nowhere = bool((lower > upper).any())
        self._lines = Lines.of(r.relu, self._lower, np.maximum(self._lower, self._upper))
        return nowhere

    def _asked(self, domains: Domains) -> tuple[Problem, Multipliers]:
        return self._problem(domains, np.float32), self._given(domains)

    def _problem(self, domains: Domains, dtype: type) -> Problem:
        which = domains.target
        parts = (self._rows[which], self._constants[which], domains.phases)
        lines = Lines(*(part[which] for part in self._lines)).tensors(tf.as_dtype(dtype))
        return Problem(*(tf.constant(part.astype(dtype)) for part in parts), lines=lines)

    def _given(self, domains: Domains) -> Multipliers:
        parts = (domains.unit, domains.mix)
        return Multipliers(*(tf.constant(part.astype(np.float32)) for part in parts))
