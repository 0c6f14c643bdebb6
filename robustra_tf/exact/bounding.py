"""Bounds of domains of one restricted network, for several targets."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from robustra_tf.exact.ascent import engine
from robustra_tf.exact.dense import Columns, dense
from robustra_tf.exact.domains import Domains
from robustra_tf.exact.inner import as_type, first_slopes
from robustra_tf.exact.multipliers import Multipliers, Problem
from robustra_tf.exact.restriction import Restriction

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
      point: [k, n] the inputs.
      margin: [k] the network's own margins there, in float32.
    """

    choices: np.ndarray
    point: np.ndarray
    margin: np.ndarray


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
        norm = "linf" if l1_radius is None else "l1"
        self._functions = engine(self._single.layout, norm, most)
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
            first_slopes(self._single, count).numpy().astype(np.float16),
            np.ones(self._constants.shape, np.float32),
            np.full((count, min(candidates, units)), -1),
        )

    def climbed(self, domains: Domains, steps: int, rate: float) -> Domains:
        """With the multipliers and the bounds, those of float32, that `steps` steps lead to."""
        best, kept = self._functions.climbed(self._single, *self._asked(domains), steps, rate)
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
        choices = np.zeros((len(domains), 0), int)
        if domains.choices.shape[1]:
            best = tf.math.top_k(found.score, domains.choices.shape[1])
            choices = np.where(np.isfinite(best.values.numpy()), best.indices.numpy(), -1)
        point = self._columns.image(found.point.numpy().astype(float))
        return Seen(choices, point, found.margin.numpy())

    def _asked(self, domains: Domains) -> tuple[Problem, Multipliers]:
        return self._problem(domains, np.float32), self._given(domains)

    def _problem(self, domains: Domains, dtype: type) -> Problem:
        which = domains.target
        parts = (self._rows[which], self._constants[which], domains.phases)
        return Problem(*(tf.constant(part.astype(dtype)) for part in parts))

    def _given(self, domains: Domains) -> Multipliers:
        parts = (domains.unit, domains.mix)
        return Multipliers(*(tf.constant(part.astype(np.float32)) for part in parts))
