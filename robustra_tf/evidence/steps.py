"""What a proof is made of: steps that bound units, rows with slopes of their own, trees."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

#: Ways to bound what a ReLU reads, and margins: by intervals, by a backward pass with the lower
#: slopes of Wong and Kolter, or with those of CROWN.
INTERVAL, WK, CROWN = "interval", "wk", "crown"
RULES = (INTERVAL, WK, CROWN)


@dataclasses.dataclass(frozen=True, eq=False)
class RowSet:
    """Bounds of units of one ReLU, each end by a backward pass with slopes of its own.

    Attributes:
      neuron: [q] places in the ReLU.
      end: [q], 1 where the lower end is bounded, -1 where the upper one is.
      unit: [m] units of earlier ReLUs, numbered through, increasing.
      alpha: [q, m] their lower slopes, within [0, 1]; float32 or float16.
      weight: [q, j] float32, what of a group's margins is added, at least 0; of a tree's own rows,
        which count where none of these margins is above 0. None of all others.
    """

    neuron: np.ndarray
    end: np.ndarray
    unit: np.ndarray
    alpha: np.ndarray
    weight: np.ndarray | None = None

    def parts(self) -> dict[str, np.ndarray]:
        """The arrays as files have them."""
        return {
            "neuron": self.neuron.astype(np.int32),
            "end": self.end.astype(np.int8),
            "unit": self.unit.astype(np.int32),
            "alpha": self.alpha,
            **({} if self.weight is None else {"weight": self.weight}),
        }


class Step(NamedTuple):
    """One ReLU, by its number, bounded by a rule or by rows."""

    relu: int
    how: str | RowSet


class Slopes(NamedTuple):
    """Lower slopes of units: their numbers [m], increasing, and slopes [..., m]."""

    unit: np.ndarray
    alpha: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Leaf:
    """A domain that is closed: its phases, and what the bound of its margins follows from.

    Attributes:
      unit: [d] units, numbered through, whose phases are fixed.
      phase: [d], 1 or -1.
      beta: [d] float32, their multipliers.
      slopes: [m] lower slopes.
      weight: [j] float32, of the group's margins.
    """

    unit: np.ndarray
    phase: np.ndarray
    beta: np.ndarray
    slopes: Slopes
    weight: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class PhaseTree:
    """One group kept out by a tree over the phases of ReLUs.

    Attributes:
      group: its number.
      bounds: steps behind the example's own.
      unit: [m] units, numbered through, increasing, that leaves have slopes of.
      split: [nodes] in preorder: a unit, or -1 of a leaf; first the half where it is active.
      alpha: [leaves, m].
      beta: leaf by leaf along its path, float32.
      weight: [leaves, j] float32.
    """

    group: int
    bounds: tuple[Step, ...]
    unit: np.ndarray
    split: np.ndarray
    alpha: np.ndarray
    beta: np.ndarray
    weight: np.ndarray

    def parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The fields beside `bounds`, and the arrays."""
        names = ("split", "unit", "alpha", "beta", "weight")
        fields = {"kind": "phases", "group": self.group}
        return fields, {name: getattr(self, name) for name in names}


@dataclasses.dataclass(frozen=True, eq=False)
class BoxTree:
    """Groups kept out by a tree over boxes of the inputs.

    Attributes:
      groups: their numbers.
      bounds: steps that bound the units anew on a box.
      margins: rules of margins there.
      split: [nodes] in preorder: an entry of the input, or -1 of a leaf; first the upper half.
      at: [splits] where.
      closes: [nodes, groups], 1 where a group is closed.
    """

    groups: tuple[int, ...]
    bounds: tuple[Step, ...]
    margins: tuple[str, ...]
    split: np.ndarray
    at: np.ndarray
    closes: np.ndarray

    def parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The fields beside `bounds`, and the arrays."""
        fields = {"kind": "boxes", "groups": list(self.groups), "margins": list(self.margins)}
        return fields, {name: getattr(self, name) for name in ("split", "at", "closes")}


class UncoveredError(ValueError):
    """Leaves that are not those of a tree: a fault of the search."""


def phase_tree(group: int, bounds: tuple[Step, ...], leaves: list[Leaf]) -> PhaseTree:
    """The tree whose leaves these are.

    Halving domains, in whatever order, leaves at every node of the tree a unit that is fixed in all
    of its leaves. Any such unit may be split on: what lies on either side are leaves of a tree.

    Raises:
      UncoveredError: there is no such unit, or a side without leaves.
    """
    units = np.unique(np.concatenate([leaf.unit for leaf in leaves])).astype(np.int32)
    phases, beta = (np.zeros((len(leaves), len(units)), kind) for kind in (np.int8, np.float32))
    for place, leaf in enumerate(leaves):
        at = np.searchsorted(units, leaf.unit)
        phases[place, at], beta[place, at] = leaf.phase, leaf.beta
    split: list[int] = []
    order: list[int] = []
    betas: list[np.ndarray] = [np.zeros(0, np.float32)]
    stack = [(np.arange(len(leaves)), ())]
    while stack:
        members, path = stack.pop()
        free = np.ones(len(units), bool)
        free[list(path)] = False
        if len(members) == 1 and not (phases[members[0], free] != 0).any():
            split.append(-1)
            order.append(members[0])
            betas.append(beta[members[0], list(path)])
            continue
        common = np.flatnonzero((phases[members] != 0).all(0) & free)
        if not len(common):
            raise UncoveredError(f"leaves: {len(members)} of them have no unit in common")
        chosen = int(common[0])
        split.append(int(units[chosen]))
        sides = [members[phases[members, chosen] == sign] for sign in (-1, 1)]
        if not all(map(len, sides)):
            raise UncoveredError(f"leaves: one phase of unit {units[chosen]} is not covered")
        # The last one is taken first: that where the unit is active.
        stack += [(side, (*path, chosen)) for side in sides]
    unit = np.unique(np.concatenate([leaf.slopes.unit for leaf in leaves]))
    alpha = np.zeros((len(leaves), len(unit)), _wider([leaf.slopes.alpha for leaf in leaves]))
    for place, number in enumerate(order):
        slopes = leaves[number].slopes
        alpha[place, np.searchsorted(unit, slopes.unit)] = slopes.alpha
    return PhaseTree(
        group,
        bounds,
        unit.astype(np.int32),
        np.array(split, np.int32),
        alpha,
        np.concatenate(betas).astype(np.float32),
        np.stack([leaves[i].weight for i in order]).astype(np.float32),
    )


def _wider(alphas: list[np.ndarray]) -> type[np.floating]:
    """Float16 where it holds all of these, else float32."""
    half = all((alpha.astype(np.float16) == alpha).all() for alpha in alphas)
    return np.float16 if half else np.float32
