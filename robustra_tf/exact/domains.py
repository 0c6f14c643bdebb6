"""The domains of a search that are still open, in arrays."""

from __future__ import annotations

import dataclasses

import numpy as np

# Bounds, phases and multipliers of a domain; slopes and multipliers need no more digits.
_HALF = np.float16
_LARGEST = float(np.finfo(_HALF).max)


@dataclasses.dataclass(frozen=True, eq=False)
class Domains:
    """Domains of one restricted network, for several targets.

    Attributes:
      target: [k] the number of what is to be proven.
      bound: [k] proven lower bounds of its margin, float64.
      phases: [k, m] 1 or -1 where the phase of a ReLU is fixed, else 0; int8.
      unit: [k, m] the multipliers that a bound begins from, float16.
      mix: [k, j] weights of the target's margins, float32.
      choices: [k, c] the ReLUs to branch on, the likeliest first; -1 where there is none.
      pull: [k, c] the coefficients that the bound has on them, float32.
    """

    target: np.ndarray
    bound: np.ndarray
    phases: np.ndarray
    unit: np.ndarray
    mix: np.ndarray
    choices: np.ndarray
    pull: np.ndarray

    def __len__(self) -> int:
        return len(self.target)

    def take(self, which: np.ndarray) -> Domains:
        """Some of them, by numbers or by a mask."""
        return Domains(*(getattr(self, f.name)[which] for f in dataclasses.fields(self)))

    def with_multipliers(self, unit: np.ndarray, mix: np.ndarray) -> Domains:
        """With other multipliers to begin from."""
        unit = np.minimum(unit, _LARGEST).astype(_HALF)
        return dataclasses.replace(self, unit=unit, mix=mix.astype(np.float32))

    def halved(self, units: np.ndarray, pull: np.ndarray | float = 0.0) -> Domains:
        """Both halves of every domain: of the ReLU `units` [k], first where it is active.

        Args:
          units: the ReLUs.
          pull: [k] the coefficients that the bounds have on them, or 0. A positive one took the
            slope `alpha`: with the multipliers `pull (1 - alpha)` and `pull alpha` of the two
            phases either half is bounded by what the whole was.
        """
        parts, rows = [], np.arange(len(units))
        slope = self.unit[rows, units].astype(np.float32)
        for phase, share in ((1, 1.0 - slope), (-1, slope)):
            phases, unit = self.phases.copy(), self.unit.copy()
            phases[rows, units] = phase
            unit[rows, units] = np.clip(pull * share, 0.0, _LARGEST)
            parts.append(dataclasses.replace(self, phases=phases, unit=unit))
        return joined(parts)


def joined(parts: list[Domains]) -> Domains:
    """All domains of several collections."""
    names = [field.name for field in dataclasses.fields(Domains)]
    return Domains(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))


def grouped(phases: np.ndarray, most: int) -> list[np.ndarray]:
    """The numbers of domains with the phases [k, m], in at most so many groups.

    Each time the largest group is parted, by a ReLU whose phase is fixed in all of it, the one that
    parts it most evenly.
    """
    whole, groups = [], [np.arange(len(phases))]
    while groups and len(whole) + len(groups) < most:
        groups.sort(key=len)
        group = groups.pop()
        here = phases[group]
        fixed, active = (here != 0).all(0), (here > 0).sum(0)
        smaller = np.where(fixed, np.minimum(active, len(group) - active), 0)
        unit = int(np.argmax(smaller)) if len(smaller) else 0
        if not len(smaller) or not smaller[unit]:
            whole.append(group)
            continue
        groups += [group[here[:, unit] > 0], group[here[:, unit] < 0]]
    return whole + groups


class Pool:
    """Domains that wait, in blocks so that none is copied twice.

    The worst bounds are taken first, for a counterexample is likeliest there, while they fit in
    `capacity` domains; beyond it the best, which lead to the fewest others.
    """

    def __init__(self, capacity: int):
        """An empty pool."""
        #: All that waits.
        self.blocks: list[Domains] = []
        self._capacity = capacity

    def __len__(self) -> int:
        return sum(len(block) for block in self.blocks)

    def add(self, domains: Domains) -> None:
        """Takes them in."""
        if len(domains):
            self.blocks.append(domains)

    def take(self, count: int) -> Domains:
        """Removes so many, or all."""
        bounds = np.concatenate([block.bound for block in self.blocks])
        sign = -1.0 if len(bounds) > self._capacity else 1.0
        chosen = np.zeros(len(bounds), bool)
        chosen[np.argpartition(sign * bounds, min(count, len(bounds)) - 1)[:count]] = True
        taken, kept, start = [], [], 0
        for block in self.blocks:
            mask = chosen[start : start + len(block)]
            start += len(block)
            if mask.any():
                taken.append(block.take(mask))
                block = block.take(~mask)
            if len(block):
                kept.append(block)
        # Blocks that have become small are joined, or there would be ever more of them.
        small = [block for block in kept if len(block) < count]
        self.blocks = [block for block in kept if len(block) >= count]
        if small:
            self.blocks.append(joined(small))
        return joined(taken)

    def drop(self, target: int) -> list[Domains]:
        """Removes all of a target."""
        own = [block.take(block.target == target) for block in self.blocks]
        kept = (block.take(block.target != target) for block in self.blocks)
        self.blocks = [block for block in kept if len(block)]
        return own
