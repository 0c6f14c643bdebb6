"""Derives the margins of a pair anew: of both networks alone, and of their mixes.

For a target let `f` and `g` be the margins of both networks over the label, `a` a weight in [0, 1].
Where both are at least 0, `a f + (1 - a) g` is, so that an upper bound of it below 0 shows that no
input has both networks prefer the target. That holds for any `a`: the file's are not believed to be
the best. By the dual each network has `f(x') <= base + row . (x' - centre)` on the set, and the mix
of the two bounds the mix; by intervals the mix of two upper bounds does.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .claim import Claim
from .conditions import NO_GROUP
from .derive import Check, Derived, checked
from .intervals import Intervals
from .pair_claim import PairClaim
from .rejection import RejectedError
from .rounding import FEW, TINY, TOLERANCES
from .state import State


class PairDerived(NamedTuple):
    """What follows from an accepted certificate of a pair.

    Attributes:
      margin_lower: of the mixes, [n, classes].
      certified: whether no input makes both networks answer one wrong class, [n].
      answered: whether both networks answer the label throughout, [n].
    """

    margin_lower: np.ndarray
    certified: np.ndarray
    answered: np.ndarray


def check(claim: PairClaim, network_sha256: str | None = None) -> PairDerived:
    """Accepts a certificate by returning what follows from it.

    Args:
      claim: as `pair_claim.read` gives it.
      network_sha256: those that f and g must have, a comma between; by default what the file names.

    Raises:
      RejectedError: the network, and its first layer and field, or the field of the pair, that do
        not hold.
    """
    hashes: list[str | None] = [None, None]
    if network_sha256 is not None:
        hashes = [*network_sha256.split(",")]
        if len(hashes) != 2:
            raise RejectedError("pair", "network_sha256", "expected two with a comma between")
    _check_mix(claim)
    sides = {
        name: _of_network(name, part, claim.method, sha256)
        for name, part, sha256 in zip("fg", (claim.f, claim.g), hashes, strict=True)
    }
    with np.errstate(all="ignore"):
        follows = _follows(claim, sides["f"], sides["g"])
    _compare(claim, follows, sides)
    both = np.minimum(follows, claim.margin_lower)
    f, g = claim.f.predicted, claim.g.predicted
    quiet = (f == claim.f.labels) | (f != g)
    certified = claim.f.conditions.kept_out(both) & quiet
    answered = sides["f"].derived.certified & sides["g"].derived.certified
    return PairDerived(follows, certified, answered)


def _check_mix(claim: PairClaim) -> None:
    if not ((claim.mix >= 0) & (claim.mix <= 1)).all():
        raise RejectedError("pair", "mix", "leaves [0, 1]")


class _Side(NamedTuple):
    """What follows of one network.

    Attributes:
      check: the pass over it.
      derived: its margins.
      sizes: of the numbers that a margin is summed up of, [n, classes].
    """

    check: Check
    derived: Derived
    sizes: np.ndarray


class _Traced(Check):
    """A pass that keeps what the margins are of: `base + rows . (x' - centre)`, upper bounds."""

    base: np.ndarray
    rows: np.ndarray

    def _check_margins(self, last: State, safe: np.ndarray) -> Derived:
        derived, asked = super()._check_margins(last, safe), self.claim.conditions
        # One condition after the other: the rows of all of them may be many.
        parts = [
            self._pulled(len(self.nodes) - 1, asked.rows[:, k : k + 1])
            for k in range(asked.rows.shape[1])
        ]
        total, self.rows = (np.concatenate(each, axis=1) for each in zip(*parts, strict=True))
        self.base = self._rounded(asked.read(last.centre) + total * self.share, last)
        return derived


def _of_network(name: str, claim: Claim, method: str, sha256: str | None) -> _Side:
    check = (Intervals if method == "interval" else _Traced)(claim)
    try:
        derived = checked(check, sha256)
    except RejectedError as error:
        raise RejectedError(f"{name}: {error.layer}", error.field, error.reason) from error
    sizes = claim.conditions.weighed(check.states[-1].magnitude)
    return _Side(check, derived, sizes)


def _follows(claim: PairClaim, f: _Side, g: _Side) -> np.ndarray:
    """Lower bounds of the mixes of margins, [n, classes]; at the ends those of one network."""
    share, rest = claim.mix, 1.0 - claim.mix
    alone = -f.derived.margin_lower, -g.derived.margin_lower
    if isinstance(f.check, _Traced) and isinstance(g.check, _Traced):
        parts = share * f.check.base, rest * g.check.base
        reached = _reached(f.check, g.check, share, rest)
    else:
        parts, reached = (share * alone[0], rest * alone[1]), np.zeros_like(share)
    upper = parts[0] + parts[1] + reached
    if f.check.sound:
        upper = upper + FEW * (np.abs(parts[0]) + np.abs(parts[1]) + reached) + TINY
    upper = np.where(share == 1, alone[0], np.where(share == 0, alone[1], upper))
    return np.where(claim.f.conditions.group == NO_GROUP, 0.0, -upper)


def _reached(f: _Traced, g: _Traced, share: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """The support of the mixed rows, with what the sum of two of them may be off."""
    column = (..., *(None,) * (f.rows.ndim - 2))
    found = f.support(share[column] * f.rows + rest[column] * g.rows)
    most = max(f.share, g.share)
    if most > 1:
        found = found * most + (most - 1) * (share * f.support(f.rows) + rest * f.support(g.rows))
    return found


def _compare(claim: PairClaim, follows: np.ndarray, sides: dict[str, _Side]) -> None:
    """`margin_lower` is what follows: not more, and less by rounding alone."""
    check, mode = sides["f"].check, claim.f.mode
    if not np.isfinite(follows).all():
        raise RejectedError("pair", "margin_lower", "what follows is not finite")
    sizes = claim.mix * sides["f"].sizes + (1.0 - claim.mix) * sides["g"].sizes
    check.compare("pair", "margin_lower", claim.margin_lower, follows, TOLERANCES[mode] * sizes)
