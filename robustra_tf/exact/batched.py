"""Branch and bound over the phases of ReLUs, many domains at a time."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from robustra_tf.exact.ascent import Pace
from robustra_tf.exact.bounding import Bounding, Target
from robustra_tf.exact.domains import Domains, Pool, joined
from robustra_tf.exact.options import SearchOptions
from robustra_tf.exact.proving import Batch
from robustra_tf.exact.restriction import Restriction
from robustra_tf.exact.solver import Answer, Outcome, undecided

# ReLUs that are tried before one is branched on.
_CANDIDATES = 8
# Fewer domains than this are split more than once at a time.
_FEW = 16
# The weight of the better half, beside that of the worse, in the choice of a ReLU.
_BETTER_HALF = 0.5
# Batches before their cost is measured: the first ones trace and warm up.
_UNMEASURED = 3
# How much cheaper a node of linear programmes has to be than a domain.
_CHEAPER = 2.0
# Domains of a target after which the bounds of its costliest units are cut, how many units of them,
# how often, by how many steps at what rate, and what the bound has to gain for another time.
_LONG = 400
_CUT_UNITS, _CUTS, _CUT_STEPS, _CUT_RATE, _GAIN = 32, 4, 40, 0.3, 0.05
# Seconds that no domain is bounded in.
_TINY = 1e-9


class BatchedSearch:
    """Decides several targets of one restricted network over one pool of domains.

    A domain is the ball with the phases of some ReLUs fixed. It is bounded in float32 by ascent
    over multipliers (`exact.multipliers`), from those of the domain that it is half of, and closed
    only where these multipliers prove a bound above the tolerance in float64. The minimum of its
    relaxation is a candidate for a counterexample, and says which ReLUs to branch on: of those
    whose relaxation costs the most, the one whose halves have the best bounds (filtered smart
    branching: A. De Palma et al., *Improved branch and bound for neural network verification via
    Lagrangian decomposition*, 2021).
    """

    name = "batched"

    def __init__(
        self,
        restriction: Restriction,
        centre: np.ndarray,
        l1_radius: float | None,
        targets: Mapping[int, Target],
        options: SearchOptions = SearchOptions(),
        proof: Batch | None = None,
    ):
        """Prepares.

        Args:
          restriction, centre, l1_radius: as `encode` takes them.
          targets: what is to be decided, by numbers.
          options: how the search goes.
          proof: keeps the domains that are closed, with the multipliers that prove it.
        """
        self._options, self._proof = options, proof
        self._numbers, self._targets = list(targets), list(targets.values())
        self._bounding = Bounding(restriction, centre, l1_radius, self._targets)
        self._tolerance = np.array([target.tolerance for target in self._targets])
        self._proven = np.full(len(targets), np.inf)
        self._nodes = np.zeros(len(targets), int)
        self._point: tuple[int, np.ndarray] | None = None
        self._replays: Callable[[np.ndarray], bool] = lambda point: True
        self._stuck: list[Domains] = []
        self._deadline = math.inf
        # Whether a target's bounds say something of points alone where it does not hold.
        self._cut = np.zeros(len(targets), bool)
        self._batch = options.together(self._bounding.numbers)
        self._pool = Pool(options.waiting(3 * restriction.units + 8 * _CANDIDATES + 64))

    def check(self, points: np.ndarray) -> None:
        """As `Bounding.check`."""
        self._bounding.check(points)

    @property
    def _late(self) -> bool:
        return time.monotonic() >= self._deadline

    @property
    def found(self) -> bool:
        """Whether there is a counterexample for one of the targets."""
        return self._point is not None

    def run(
        self,
        deadline: float,
        cost: float = np.inf,
        replays: Callable[[np.ndarray], bool] | None = None,
        nodes: float = np.inf,
    ) -> bool:
        """Searches until all is proven, a counterexample is found, or others should go on.

        Args:
          deadline: of `time.monotonic`.
          cost: seconds of a node of linear programmes; where a domain takes longer than that by
            far, what is left is handed over.
          replays: whether a point [n] is a counterexample of the network as it is deployed; by
            default all are taken.
          nodes: domains after which it is broken off.

        Returns:
          Whether it was broken off there.
        """
        options, batches, each = self._options, 0, 0.0
        self._replays, self._deadline = replays or self._replays, deadline
        self._bound(self._bounding.roots(_CANDIDATES), options.root_steps)
        while len(self._pool) and not self.found:
            start = time.monotonic()
            if start >= deadline:
                break
            if self._nodes.sum() >= nodes:
                return True
            # No more than there is time for.
            most = min(self._batch, (deadline - start) / max(each, _TINY))
            domains = self._split(self._pool.take(max(1, int(most) // 2)))
            self._bound(domains, options.steps)
            for place in np.flatnonzero((self._nodes > _LONG) & ~self._cut):
                if place in domains.target:
                    self._tighten(int(place))
            batches += 1
            each = (time.monotonic() - start) / len(domains)
            hands = options.short and (self._proof is None or not self._cut.any())
            if hands and batches > _UNMEASURED and cost * _CHEAPER < each:
                break
        return False

    def answer(self, number: int) -> Answer:
        """What is known of a target by its number."""
        place = self._numbers.index(number)
        nodes = int(self._nodes[place])
        if self._point is not None and self._point[0] == place:
            return Answer(Outcome.FOUND, -np.inf, self._point[1], nodes, 0)
        if len(self.handed(number)):
            return undecided("time limit", nodes=nodes)
        return Answer(Outcome.PROVEN, self.proven(number), None, nodes, 0)

    def proven(self, number: int) -> float:
        """The least bound of all of a target's domains that are closed."""
        return float(self._proven[self._numbers.index(number)])

    def handed(self, number: int) -> Domains:
        """The domains of a target that are not closed."""
        none = self._bounding.roots(_CANDIDATES).take(np.zeros(0, int))
        left = joined([*self._stuck, *self._pool.blocks, none])
        return left.take(left.target == self._numbers.index(number))

    def _bound(self, domains: Domains, steps: int) -> None:
        """`_tried`, in smaller batches where memory does not suffice."""
        waiting = [domains]
        while waiting:
            part = waiting.pop()
            try:
                self._tried(part, steps)
            except tf.errors.ResourceExhaustedError:
                if len(part) == 1:
                    raise
                if self._batch > 2:
                    warnings.warn(
                        "a batch of domains does not fit the device's memory: "
                        f"{len(part) // 2} at a time from here on",
                        RuntimeWarning,
                        stacklevel=2,
                    )
                self._batch = max(2, len(part) // 2)
                waiting += [part.take(half) for half in np.array_split(np.arange(len(part)), 2)]

    def _tried(self, domains: Domains, steps: int) -> None:
        """Bounds domains, closes what can be, and lets the others wait."""
        count, parts = domains.target, self._options.parts
        for _ in range(parts):
            pace = Pace.of(max(steps // parts, 1), self._options.rate, self._deadline)
            domains = self._bounding.climbed(domains, pace)
            if self._late:
                self._stuck.append(domains)
                break
            domains = domains.take(~self._closed(domains))
            if not len(domains):
                break
        else:
            self._kept(domains)
        np.add.at(self._nodes, count, 1)

    def _closed(self, domains: Domains) -> np.ndarray:
        """Which of the domains are proven, by float64."""
        tolerance = self._tolerance[domains.target]
        closed = domains.bound > tolerance
        if closed.any():
            likely = domains.take(closed)
            certain = self._bounding.certified(likely)
            proven = certain > tolerance[closed]
            if self._proof is not None:
                self._proof.close(likely.take(proven))
            # Where the margin is above the tolerance, cut bounds say nothing of it.
            least = np.nextafter(tolerance[closed], np.inf)
            certain = np.where(self._cut[likely.target], np.minimum(certain, least), certain)
            np.minimum.at(self._proven, likely.target[proven], certain[proven])
            closed[closed] = proven
        return closed

    def _kept(self, domains: Domains) -> None:
        """Looks for counterexamples in domains that are not closed, and lets them wait."""
        seen = self._bounding.seen(domains)
        likely = np.flatnonzero(seen.margin <= -self._tolerance[domains.target])
        for place in likely[np.argsort(seen.margin[likely])][:1]:
            if self._replays(seen.point[place]):
                self._point = int(domains.target[place]), seen.point[place]
        domains = seen.on(domains)
        open_ = np.any(seen.choices >= 0, 1)
        if not open_.all():
            self._stuck.append(domains.take(~open_))
        self._pool.add(domains.take(open_))

    def _tighten(self, place: int) -> None:
        """Better bounds where a target is still to be decided; for a proof it is searched anew."""
        self._cut[place] = True
        if self._proof is not None:
            self._pool.drop(place)
            self._stuck = [each.take(each.target != place) for each in self._stuck]
            self._proven[place] = np.inf
            self._proof.forget(place)
        if self._cut_and_closed(place):
            self._pool.drop(place)
        elif self._proof is not None:
            root = self._bounding.roots(_CANDIDATES).take(np.array([place]))
            self._bound(root, self._options.root_steps)

    def _cut_and_closed(self, place: int) -> bool:
        """Whether bounds that are cut, as often as that gains, close a target as a whole."""
        tolerance, before = float(self._tolerance[place]), -np.finfo(float).max
        keep = () if self._proof is None else (self._proof.cut,)
        for _ in range(_CUTS):
            if self._late:
                return False
            pace = Pace.of(self._options.root_steps, self._options.rate, self._deadline)
            whole = self._bounding.roots(_CUT_UNITS).take(np.array([place]))
            whole = self._bounding.climbed(whole, pace)
            if self._closed(whole).all():
                return True
            if not whole.bound[0] > (1 - _GAIN) * before:
                return False
            before = whole.bound[0]
            units = self._bounding.seen(whole).choices[0]
            units = np.sort(units[units >= 0])
            if not len(units):
                return False
            pace = Pace.of(_CUT_STEPS, _CUT_RATE, self._deadline)
            if self._bounding.cut(place, units, tolerance, pace, *keep):
                if self._proof is not None:
                    self._proof.nowhere(place)
                self._proven[place] = min(self._proven[place], np.nextafter(tolerance, np.inf))
                return True
        return False

    def _split(self, domains: Domains) -> Domains:
        """Both halves of every domain, or more where there are few."""
        levels = 1
        few = min(_FEW, self._batch)
        while len(domains) * 2 ** (levels + 1) <= few and levels < domains.choices.shape[1]:
            levels += 1
        chosen = self._chosen(domains, levels)
        for level in range(levels):
            unit = chosen[:, level]
            rows, whole = np.flatnonzero(unit >= 0), np.flatnonzero(unit < 0)
            domains = joined([domains.take(rows).halved(unit[rows]), domains.take(whole)])
            chosen = chosen[np.concatenate([rows, rows, whole])]
        return domains

    def _chosen(self, domains: Domains, levels: int) -> np.ndarray:
        """The ReLUs whose halves have the best bounds, the best first, -1 at the end: [k, levels].

        Both halves of every candidate are bounded by the multipliers of the whole.
        """
        count, candidates = domains.choices.shape
        unit = domains.choices.ravel()
        there = np.flatnonzero(unit >= 0)
        least = np.full((2, count * candidates), -np.inf)
        for part in np.array_split(there, max(1, -(-2 * len(there) // self._batch))):
            if self._late:  # the costliest one will do
                break
            tried = domains.take(part // candidates).halved(unit[part])
            least[:, part] = self._bounding.bounded(tried).reshape(2, -1)
        # What closes a half closes it: by how much is worth nothing.
        least = np.minimum(least, np.repeat(self._tolerance[domains.target], candidates))
        score = least.min(0) + _BETTER_HALF * least.max(0)
        best = np.argsort(-score.reshape(count, candidates), axis=1, kind="stable")[:, :levels]
        return np.take_along_axis(domains.choices, best, 1)
