"""Branch and bound over the phases of ReLUs, many domains at a time."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from robustra_tf.exact.ascent import Pace
from robustra_tf.exact.bounding import Bounding
from robustra_tf.exact.branching import Splitting
from robustra_tf.exact.closing import PART_EFFORT, Closing
from robustra_tf.exact.domains import Domains, Pool, grouped, joined
from robustra_tf.exact.options import SearchOptions
from robustra_tf.exact.proving import Batch
from robustra_tf.exact.restriction import Restriction
from robustra_tf.exact.solver import Answer, Outcome, undecided
from robustra_tf.exact.tally import Tally
from robustra_tf.exact.targets import Target

# ReLUs that are tried before one is branched on.
_CANDIDATES = 8
# Batches before their cost is measured: the first ones trace and warm up.
_UNMEASURED = 3
# How much cheaper a node of linear programmes has to be than a domain.
_CHEAPER = 2.0
# Domains of a target after which the bounds of its costliest units are cut, and after which, and
# once more after as many, those that wait become parts of it, so many.
_LONG, _LONGER, _PARTS = 400, 800, 16
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
        self._numbers = list(targets)
        self._bounding = Bounding(restriction, centre, l1_radius, list(targets.values()))
        self._tally = Tally([target.tolerance for target in targets.values()])
        self._closing = Closing(self._bounding, self._tally, options, proof)
        self._point: tuple[int, np.ndarray] | None = None
        self._replays: Callable[[np.ndarray], bool] = lambda point: True
        self._stuck: list[Domains] = []
        self._deadline = math.inf
        self._batch = options.together(self._bounding.numbers)
        #: Bytes of a domain that waits.
        self.size = 3 * restriction.units + 8 * _CANDIDATES + 64
        self._pool = Pool(options.waiting(self.size))
        # Parts hold rows, phases, bounds and what ascents came to, within another eighth.
        known = 4 * PART_EFFORT.units * restriction.units
        size = 8 * self._bounding.numbers + 48 * restriction.units + known
        self._most_targets = len(targets) + options.waiting(size) // 4

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
        options, tally, batches, each = self._options, self._tally, 0, 0.0
        self._replays, self._deadline = replays or self._replays, deadline
        self._bound(self._bounding.roots(_CANDIDATES), options.root_steps)
        while len(self._pool) and not self.found:
            start = time.monotonic()
            if start >= deadline:
                break
            if tally.nodes.sum() >= nodes:
                return True
            # No more than there is time for.
            most = min(self._batch, (deadline - start) / max(each, _TINY))
            domains = self._split(self._pool.take(max(1, int(most) // 2)))
            self._bound(domains, options.steps)
            self._better(domains.target, nodes)
            batches += 1
            each = (time.monotonic() - start) / len(domains)
            hands = options.short and (self._proof is None or not tally.cut.any())
            if hands and batches > _UNMEASURED and cost * _CHEAPER < each:
                break
        return False

    def answer(self, number: int) -> Answer:
        """What is known of a target by its number."""
        place = self._numbers.index(number)
        nodes = int(self._tally.nodes[self._tally.whole == place].sum())
        if self._point is not None and self._tally.whole[self._point[0]] == place:
            return Answer(Outcome.FOUND, -np.inf, self._point[1], nodes, 0)
        if len(self.handed(number)):
            return undecided("time limit", nodes=nodes)
        return Answer(Outcome.PROVEN, self.proven(number), None, nodes, 0)

    def proven(self, number: int) -> float:
        """The least bound of all of a target's domains that are closed."""
        own = self._tally.whole == self._numbers.index(number)
        return float(self._tally.proven[own].min())

    def handed(self, number: int) -> Domains:
        """The domains of a target that are not closed."""
        left = joined([*self._stuck, *self._pool.blocks, self._none])
        return left.take(self._tally.whole[left.target] == self._numbers.index(number))

    @property
    def _none(self) -> Domains:
        """No domains."""
        return self._bounding.roots(_CANDIDATES).take(np.zeros(0, int))

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
        np.add.at(self._tally.nodes, count, 1)

    def _closed(self, domains: Domains) -> np.ndarray:
        """As `Closing.closed`."""
        return self._closing.closed(domains)

    def _kept(self, domains: Domains) -> None:
        """Looks for counterexamples in domains that are not closed, and lets them wait."""
        seen = self._bounding.seen(domains)
        likely = np.flatnonzero(seen.margin <= -self._tally.tolerance[domains.target])
        for place in likely[np.argsort(seen.margin[likely])][:1]:
            if self._replays(seen.point[place]):
                self._point = int(domains.target[place]), seen.point[place]
        domains = seen.on(domains)
        open_ = np.any(seen.choices >= 0, 1)
        if not open_.all():
            self._stuck.append(domains.take(~open_))
        self._pool.add(domains.take(open_))

    def _better(self, targets: np.ndarray, nodes: float) -> None:
        """Better bounds for those of some targets that take long; `nodes` as `run` has them."""
        tally, present = self._tally, np.zeros(len(self._tally.whole), bool)
        present[targets] = True
        for place in np.flatnonzero(present & (tally.nodes > _LONG) & ~tally.cut):
            self._tighten(int(place))
        # Parts do not pay where all is broken off, to begin anew on better bounds.
        if self._proof is None and nodes == np.inf:
            long = tally.nodes > _LONGER * (1 + tally.parted)
            for place in np.flatnonzero(present & long):
                self._part(int(place))

    def _tighten(self, place: int) -> None:
        """Better bounds where a target is still to be decided; for a proof it is searched anew."""
        self._tally.cut[place] = True
        if self._proof is not None:
            self._pool.drop(place)
            self._stuck = [each.take(each.target != place) for each in self._stuck]
            self._tally.proven[place] = np.inf
            self._proof.forget(place)
        if self._closing.cut(place, self._deadline):
            self._pool.drop(place)
        elif self._proof is not None:
            root = self._bounding.roots(_CANDIDATES).take(np.array([place]))
            self._bound(root, self._options.root_steps)

    def _part(self, place: int) -> None:
        """Makes the domains of a target that wait parts of it, each with bounds of its own."""
        self._tally.parted[place] += 1
        if len(self._tally.whole) + _PARTS > self._most_targets:
            return
        waiting = joined([*self._pool.drop(place), self._none])
        if len(waiting) < _PARTS:
            self._pool.add(waiting)
            return
        for group in grouped(waiting.phases, _PARTS):
            domains = waiting.take(group)
            fixed = (domains.phases == domains.phases[0]).all(0)
            phases = np.where(fixed, domains.phases[0], np.int8(0))
            worst = np.argmin(domains.bound)
            known = domains.phases[worst] == phases
            start = np.where(known, domains.unit[worst], np.float16(np.nan))
            part = self._bounding.part(place, phases, start)
            self._tally.part(place)
            if not self._closing.cut(part, self._deadline):
                own = dataclasses.replace(domains, target=np.full(len(group), part))
                self._bound(own, self._options.steps)

    def _split(self, domains: Domains) -> Domains:
        """As `Splitting.halves`."""
        splitting = Splitting(self._bounding, self._batch, self._deadline)
        return splitting.halves(domains, self._tally.tolerance[domains.target])
