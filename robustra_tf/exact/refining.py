"""Bounds of a restricted network's units by small searches, each end of each unit its own."""

from __future__ import annotations

import dataclasses
import time
from typing import NamedTuple

import numpy as np

from robustra_tf.exact.ascent import Pace
from robustra_tf.exact.bounding import Bounding
from robustra_tf.exact.domains import Domains, joined
from robustra_tf.exact.restriction import SLACK, Restriction
from robustra_tf.exact.targets import Target

# Domains that are split at a time, and Adam's steps and rate.
_BATCH, _ROOT_STEPS, _STEPS, _RATE = 256, 20, 8, 0.1
# Domains that are bounded in float64 at a time.
_CERTAIN = 1024
# Units at a time: both ends of each are targets of their own.
_UNITS = 256
# After so many domains of an end, or this part of what it may have, it must have gained a share of
# its distance from 0.
_PATIENCE, _PART, _GAIN = 16, 0.125, 0.1
# Domains after which a search is broken off, and of how many each end of a unit is bounded then.
_ROUNDS = ((1000, 24), (8000, 128), (32_000, 1024), (128_000, 8192))
# Of how many units that pays, the share of the time that it may take, and of what triangles may be
# off the share that another time takes away at least.
_MOST, _SHARE, _PAYS = 1600, 0.25, 0.05


class Refinement(NamedTuple):
    """How much is searched.

    Attributes:
      domains: of every end of a unit, at most.
      deadline: of `time.monotonic`; what is done by then is kept.
      most: domains of all ends together, at most.
    """

    domains: int
    deadline: float
    most: int


class Rounds:
    """Searches of more and more domains, each on bounds by longer searches than the one before.

    Attributes:
      nodes: domains after which a search is broken off; infinite for the last one.
    """

    def __init__(self, units: float):
        """Of a restricted network of so many units."""
        self._left = iter(_ROUNDS if units <= _MOST else ())
        self.nodes, self._each = next(self._left, (np.inf, 0))

    def refinement(self, deadline: float, most: int) -> Refinement:
        """How much is searched behind this one, where all time ends at `deadline`."""
        now = time.monotonic()
        return Refinement(self._each, now + _SHARE * (deadline - now), most)

    def go_on(self, before: Restriction, now: Restriction) -> None:
        """To the next one; to the last where the bounds have become little better."""
        paid = looseness(now) <= (1.0 - _PAYS) * looseness(before)
        self.nodes, self._each = next(self._left if paid else iter(()), (np.inf, 0))


def looseness(restriction: Restriction) -> float:
    """How far off the triangles of unstable units behind the first group may be, in all."""
    r = restriction
    open_ = r.relu & (r.lower < 0) & (r.upper > 0)
    for group in r.groups[:1]:  # there is none where no ReLU is left that is read
        open_[group] = False
    low, high = r.lower[open_], r.upper[open_]
    return float((-low * high / (high - low)).sum())


def refined(
    restriction: Restriction, centre: np.ndarray, l1_radius: float | None, how: Refinement
) -> Restriction:
    """The restriction with better bounds of its unstable units, group by group.

    The least of a unit over the ball is at least the least of the bounds of domains that cover it:
    the worst of them is halved at a ReLU of an earlier group, again and again, until the unit is
    stable or has had its domains. Every bound counts as what its multipliers prove in float64.

    Args:
      restriction, centre, l1_radius: as `encode` takes them.
      how: how much is searched.
    """
    r = restriction
    for number, group in enumerate(r.groups):
        units = np.arange(group.start, group.stop)
        chosen = units[r.relu[units] & (r.lower[units] < 0) & (r.upper[units] > 0)]
        if not number or not len(chosen):
            continue
        lower, upper = r.lower.copy(), r.upper.copy()
        for part in np.array_split(chosen, -(-len(chosen) // _UNITS)):
            if time.monotonic() >= how.deadline:
                break
            found = _ends(r, number, part, (centre, l1_radius), how)
            # What is no number says nothing.
            lower[part] = np.fmax(lower[part], found[0])
            upper[part] = np.fmin(upper[part], found[1])
        r = dataclasses.replace(r, lower=lower, upper=upper)
    return r


def _ends(
    r: Restriction,
    number: int,
    units: np.ndarray,
    ball: tuple[np.ndarray, float | None],
    how: Refinement,
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of some units of a group."""
    before = r.before(number)
    rows = r.weights[units][:, : before.pixels + before.units].toarray()
    constants = r.offset[units]
    # By powers of two nothing is rounded.
    width = np.exp2(np.round(np.log2((r.upper - r.lower)[units])))
    targets = [
        Target(sign * row[None] / size, np.array([sign * constant / size]), 0.0)
        for sign in (1.0, -1.0)
        for row, constant, size in zip(rows, constants, width, strict=True)
    ]
    found = _least(Bounding(before, *ball, targets), len(targets), how) * np.tile(width, 2)
    found -= SLACK * (1.0 + np.abs(found))
    return found[: len(units)], -found[len(units) :]


def _least(bounding: Bounding, count: int, how: Refinement) -> np.ndarray:
    """Lower bounds of all targets, [count]; not a number where a leaf has none."""
    domains = bounding.climbed(bounding.roots(1), Pace.of(_ROOT_STEPS, _RATE, how.deadline))
    domains = bounding.seen(domains).on(domains)
    first, nodes = domains.bound.copy(), np.ones(count, int)
    patience = max(_PATIENCE, _PART * how.domains)
    while time.monotonic() < how.deadline and len(domains) < how.most:
        worst = np.full(count, np.inf)
        np.minimum.at(worst, domains.target, domains.bound)
        slow = (nodes > patience) & (worst < (1.0 - _GAIN) * first)
        wanted = (worst < 0) & (nodes < how.domains) & ~slow
        split = _worst(domains, wanted)
        if not split.any():
            break
        whole = domains.take(split)
        units, pull = whole.choices[:, 0], whole.pull[:, 0]
        pace = Pace.of(_STEPS, _RATE, how.deadline)
        halves = bounding.climbed(whole.halved(units, pull), pace)
        if time.monotonic() >= how.deadline:
            break
        np.add.at(nodes, halves.target, 1)
        domains = joined([domains.take(~split), bounding.seen(halves).on(halves)])
    found = np.full(count, np.inf)
    for part in np.array_split(np.arange(len(domains)), -(-len(domains) // _CERTAIN)):
        leaves = domains.take(part)
        np.minimum.at(found, leaves.target, bounding.certified(leaves))
    return found


def _worst(domains: Domains, wanted: np.ndarray) -> np.ndarray:
    """Which domains are split: the worst of every target that is wanted, [k]."""
    each = max(1, _BATCH // max(1, int(wanted.sum())))
    order = np.lexsort((domains.bound, domains.target))
    target = domains.target[order]
    first = np.searchsorted(target, target)
    rank = np.empty(len(domains), int)
    rank[order] = np.arange(len(domains)) - first
    split = (rank < each) & wanted[domains.target] & (domains.choices[:, 0] >= 0)
    return split & (domains.bound < 0)
