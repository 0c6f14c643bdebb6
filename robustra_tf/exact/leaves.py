"""From the duals of linear programmes to slopes and multipliers that anyone can check.

A dual of the long row `W u + c = h - s` is a coefficient `nu` on a pre-activation. Going backward
with the coefficient `a` that is then behind the ReLU, the best that the triangle allows for it is

  a > 0: nu = alpha a, alpha in [0, 1];   a <= 0: nu = a u / (u - l);
  phase +1: nu = a - beta;   phase -1: nu = beta,

so `alpha` and `beta` follow from `nu`, and what they prove from themselves: the bound is computed
anew, of multipliers as they are written down. An optimal dual solution loses nothing by it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from robustra_tf.evidence.region import Region
from robustra_tf.evidence.steps import Leaf, Slopes
from robustra_tf.exact.encoding import Encoding
from robustra_tf.exact.restriction import Restriction

# Float64 of a bound: a share of all that is added up, for each number in the longest sum.
_UNIT, _SAFETY = 2.0**-52, 8.0


class RecordError(ValueError):
    """What a proof cannot be written of; the text says why."""


class Multiplied(NamedTuple):
    """A bound with what it follows from, of the units of a restricted network.

    Attributes:
      bound: less what float64 may lose of it.
      alpha: [m] lower slopes, 0 where there is none.
      beta: [m] multipliers of fixed phases, 0 where there is none.
    """

    bound: float
    alpha: np.ndarray
    beta: np.ndarray


class End(NamedTuple):
    """One end of a restricted unit: 1 of the lower one, -1 of the upper one, and slopes [m]."""

    unit: int
    sign: int
    alpha: np.ndarray


class Duals:
    """Bounds by backward passes through one restricted network, from given duals."""

    def __init__(self, restriction: Restriction, region: Region):
        """Prepares; the region is the restriction's, of pixels."""
        r = self.restriction = restriction
        self._region = region
        self._weights = r.weights.toarray()
        self._free = r.relu & (r.lower < 0) & (r.upper > 0)
        self._slope = np.where(r.relu & (r.upper <= 0), 0.0, 1.0)
        free = self._free
        self._slope[free] = r.upper[free] / (r.upper[free] - r.lower[free])
        self._intercept = np.where(free, -self._slope * np.where(free, r.lower, 0.0), 0.0)
        top = np.maximum(np.abs(r.lower), np.abs(r.upper))
        self._top = np.where(np.isfinite(top), top, 0.0)
        self._far = np.concatenate([region.farthest, self._top])
        self._reach = np.abs(self._weights) @ self._far + np.abs(r.offset)

    def bound(
        self, row: np.ndarray, constant: float, phases: np.ndarray, nu: np.ndarray
    ) -> Multiplied:
        """A lower bound of `row . u + constant` where the phases hold.

        Args:
          row, constant: [n + m], of pixels and units.
          phases: [m] 1 or -1 where a phase is fixed, else 0.
          nu: [m] what coefficients on pre-activations should be.
        """
        r, n = self.restriction, self.restriction.pixels
        row = row.copy()
        size = float(np.abs(row) @ self._far + abs(constant))
        alpha, beta = np.zeros(r.units), np.zeros(r.units)
        for group in reversed(r.groups):
            here, wanted, phase = row[r.columns(group)], nu[group], phases[group]
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                slope = np.nan_to_num(wanted / here, nan=0.0, posinf=1.0, neginf=0.0)
            slope = np.clip(slope, 0.0, 1.0).astype(np.float32).astype(float)
            fixed = np.where(phase > 0, here - wanted, wanted)
            fixed = np.where(phase != 0, np.maximum(fixed, 0.0), 0.0).astype(np.float32)
            alpha[group] = np.where(self._free[group] & (phase == 0), slope, 0.0)
            beta[group] = fixed
            chord = np.where((here > 0) & self._free[group], slope, self._slope[group])
            found = np.where(phase == 0, here * chord, np.maximum(phase, 0) * here)
            found = found - phase * beta[group]
            open_ = np.where(phase == 0, np.minimum(here, 0.0) * self._intercept[group], 0.0)
            constant += float(open_.sum() + found @ r.offset[group])
            size += float(np.abs(open_).sum() + np.abs(found) @ self._reach[group])
            row += found @ self._weights[group]
        pixels = row[:n]
        constant += self._region.least(pixels[None]).item()
        size += float(np.abs(pixels) @ self._far[:n])
        constant -= _SAFETY * _UNIT * (len(row) + 8) * size
        return Multiplied(constant if np.isfinite(constant) else -np.inf, alpha, beta)


def long_rows(encoding: Encoding, duals: np.ndarray) -> np.ndarray:
    """The duals of the rows `W u + c = h - s`, by the units of the restriction [m]."""
    units, found = encoding.units, np.zeros(encoding.restriction.units)
    stop = len(duals) - len(encoding.unstable)
    found[units] = duals[stop - len(units) : stop]
    return np.where(np.isfinite(found), found, 0.0)


class Named(NamedTuple):
    """What a restricted network is called in the network.

    Attributes:
      unit: [m] numbers of the units among all of all ReLUs; -1 of what is no ReLU's.
      scale: [m] what the network's own pre-activations are of the restricted ones.
    """

    unit: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, r: Restriction, relus: tuple[int, ...], starts: np.ndarray) -> Named:
        """Of a restriction, the ReLUs' nodes, and the numbers of their first units."""
        start = np.zeros(max(relus, default=0) + 1, int)
        start[list(relus)] = starts[: len(relus)]
        return cls(np.where(r.relu, start[r.node] + r.neuron, -1), r.scale)

    def leaf(
        self, phases: np.ndarray, alpha: np.ndarray, beta: np.ndarray, weight: np.ndarray
    ) -> Leaf:
        """A leaf from multipliers [m] of restricted units and weights [j] of the group's margins.

        A common factor is taken out, so that float32 holds them whatever units these were in.

        Raises:
          RecordError: it does not hold them.
        """
        fixed = np.flatnonzero(phases)
        fixed = fixed[np.argsort(self.unit[fixed])]
        found = beta[fixed] / self.scale[fixed]
        size = max(weight.max(initial=0.0), 0.0) or found.max(initial=0.0)
        factor = np.ldexp(1.0, -np.frexp(size)[1])
        beta, weight = (np.asarray(part * factor, np.float32) for part in (found, weight))
        if not (np.isfinite(beta).all() and np.isfinite(weight).all()):
            raise RecordError("multipliers beyond float32's range")
        return Leaf(self.unit[fixed], np.sign(phases[fixed]), beta, self.slopes(alpha), weight)

    @property
    def sloped(self) -> np.ndarray:
        """[k] the places of the ReLUs, in the order of their numbers."""
        places = np.flatnonzero(self.unit >= 0)
        return places[np.argsort(self.unit[places])]

    def slopes(self, alpha: np.ndarray) -> Slopes:
        """Lower slopes [..., m] of restricted units, with their numbers."""
        places = self.sloped
        return Slopes(self.unit[places], alpha[..., places])


class Margins(NamedTuple):
    """A group's margins on a restricted network.

    Attributes:
      rows, constants: [j, n + m] and [j], each in its own unit.
      unit: [j] these, in the margins'.
    """

    rows: np.ndarray
    constants: np.ndarray
    unit: np.ndarray


class Keeper:
    """Closes domains of a search by bounds that can be checked, and keeps what they rest on."""

    def __init__(self, duals: Duals, named: Named, margins: Margins):
        """Nothing is closed yet."""
        self._duals, self._named, self._margins = duals, named, margins
        self._last: tuple[np.ndarray, Multiplied, np.ndarray] | None = None
        #: Of the domains that were closed.
        self.leaves: list[Leaf] = []

    def bound(
        self, encoding: Encoding, phases: np.ndarray, duals: np.ndarray, empty: bool
    ) -> float:
        """What duals prove of the greatest margin where phases [m] hold.

        Args:
          encoding: that of the programme.
          phases: 1 or -1 of restricted units, 0 of others.
          duals: [rows] of the programme.
          empty: whether they are a ray, to show that there is no such point; then the bound is
            that of nothing.
        """
        rows, constants = self._margins[:2]
        weight = np.zeros(len(rows))
        if not empty:
            weight[:] = 1.0
        if not empty and len(rows) > 1:
            # The rows of `t >= margin` come first.
            weight = np.maximum(-duals[: len(rows)], 0.0)
            weight = weight / weight.sum() if weight.sum() > 0 else np.full(len(rows), np.nan)
        weight = weight.astype(np.float32).astype(float)
        if not np.isfinite(weight).all():
            return -np.inf
        found = self._duals.bound(
            weight @ rows, float(weight @ constants), phases, long_rows(encoding, duals)
        )
        self._last = phases, found, weight
        return found.bound

    def close(self) -> None:
        """Keeps the domain that was bounded last."""
        if self._last is None:
            raise ValueError("leaves: nothing was bounded yet")
        phases, found, weight = self._last
        own = weight / self._margins.unit
        self.leaves.append(self._named.leaf(phases, found.alpha, found.beta, own))
