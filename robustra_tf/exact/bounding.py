"""Bounds of domains of one restricted network, for several targets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from robustra_tf.exact.ascent import Pace, engine
from robustra_tf.exact.cutting import Cutting
from robustra_tf.exact.dense import Columns, dense
from robustra_tf.exact.domains import Domains
from robustra_tf.exact.ends import Rows
from robustra_tf.exact.inner import as_type
from robustra_tf.exact.multipliers import Kind, Multipliers, Problem
from robustra_tf.exact.restriction import Restriction
from robustra_tf.exact.targets import Target, Targets

# How far two ways to compute a unit may be apart: a share of all that is added up.
_ROUNDING = 1e-9


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
        self.targets = Targets(self._columns, targets)
        kind = Kind("linf" if l1_radius is None else "l1")
        self._functions = engine(self._single.layout, kind, self.targets.rows.shape[1])
        networks = self._single, self._double
        self._cutting = Cutting(self._columns, networks, kind, self.targets)

    @property
    def numbers(self) -> int:
        """How many numbers a domain's margins are."""
        return max(1, int(np.prod(self.targets.rows.shape[1:])))

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
        """As `Targets.roots`."""
        return self.targets.roots(candidates)

    def part(self, target: int, phases: np.ndarray, start: np.ndarray) -> int:
        """As `Targets.part`."""
        found = self.targets.part(target, phases, start)
        self._cutting.part(target, found)
        return found

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
        problem = self.targets.problem(domains, np.float64)
        found = self._functions.certified(self._double, problem, given).numpy()
        if self.targets.checked is None:
            return found
        problem = self.targets.problem(domains, np.float64, self.targets.checked)
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
        """As `Cutting.cut`."""
        return self._cutting.cut(target, units, tolerance, pace, keep)

    def _asked(self, domains: Domains) -> tuple[Problem, Multipliers]:
        return self.targets.problem(domains, np.float32), self._given(domains)

    def _given(self, domains: Domains) -> Multipliers:
        parts = (domains.unit, domains.mix)
        return Multipliers(*(tf.constant(part.astype(np.float32)) for part in parts))
