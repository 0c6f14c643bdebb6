"""The proof of one case: bounds of the root that a checker derives, and the trees of its groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from robustra_tf.evidence import files
from robustra_tf.evidence.files import Example
from robustra_tf.evidence.flat import Flat
from robustra_tf.evidence.layers import Layers
from robustra_tf.evidence.region import Region
from robustra_tf.evidence.rules import rules
from robustra_tf.evidence.steps import (
    CROWN,
    INTERVAL,
    WK,
    BoxTree,
    Leaf,
    PhaseTree,
    RowSet,
    Slopes,
    Step,
    phase_tree,
)
from robustra_tf.exact.domains import Domains
from robustra_tf.exact.ends import Rows
from robustra_tf.exact.goal import Goal
from robustra_tf.exact.leaves import Duals, End, Keeper, Margins, Named, RecordError
from robustra_tf.exact.restriction import Restriction
from robustra_tf.exact.tighten import Enclosed
from robustra_tf.property import Query

# Rules of inner layers, and of margins behind them, from the cheapest on.
_LEVELS = ((INTERVAL,), (INTERVAL, WK), (INTERVAL, WK, CROWN))
_MARGINS = (INTERVAL, CROWN, WK)
# Of the logits' size.
_ROOM = 1e-9


class Prover:
    """Derives, keeps and puts together what a case's proof is made of.

    In place of bounds by whatever is the fastest, a search that is to be proven stands on those of
    `evidence.layers`, and closes a domain where multipliers as they are written prove it.
    """

    def __init__(self, network: Flat, query: Query, goal: Goal):
        """Nothing is proven yet.

        Args:
          network: as matrices.
          query: what is asked, of one example, without rounding.
          goal: the same, group by group.
        """
        self.network, self.query, self.goal = network, query, goal
        (x,) = query.x
        self.region = Region.of(x, *query[1:4])
        self._steps: tuple[Step, ...] = ()
        self._margins: tuple[str, ...] = ()
        #: Of the groups that rules do not close.
        self.trees: dict[int, PhaseTree | BoxTree] = {}
        #: [k] what margins have to be above, far beyond what a checker's rounding takes off.
        self.room = np.full(len(goal.rows), np.inf)

    def enclosed(self, enough: Callable[[np.ndarray], bool]) -> Enclosed:
        """Bounds of the pre-activations and of the margins, by rules.

        Args:
          enough: whether lower bounds [k] of `-c . f` need not be better.
        """
        structure, norm = self.network.structure, self.query.norm
        layers = Layers(self.network, self.region)
        margin = np.full(len(self.goal.rows), -np.inf)
        for names in _LEVELS:
            layers = Layers(self.network, self.region)
            self._steps = rules(structure, names, norm)
            for step in self._steps:
                layers.take(step)
            margin[:] = -np.inf
            self._margins = ()
            self.room = _ROOM * (np.abs(self.goal.rows).sum(1) * layers.largest)
            for rule in _MARGINS:
                found = layers.margins(rule, self.goal.rows, np.zeros(len(margin)))
                margin, self._margins = np.maximum(margin, found), (*self._margins, rule)
                if enough(margin):
                    return self._found(layers, margin)
        return self._found(layers, margin)

    def _found(self, layers: Layers, margin: np.ndarray) -> Enclosed:
        ends = zip(layers.lower, layers.upper, strict=True)
        return Enclosed(dict(zip(self.network.structure.relus, ends, strict=True)), margin)

    def duals(self, restriction: Restriction) -> Duals:
        """Backward passes through a restricted network."""
        return Duals(restriction, self.region)

    def named(self, restriction: Restriction) -> Named:
        """What its units are called."""
        return Named.of(restriction, self.network.structure.relus, self.network.starts)

    def keeper(self, restriction: Restriction, margins: Margins) -> Keeper:
        """What closes domains of a search on a restricted network."""
        return Keeper(self.duals(restriction), self.named(restriction), margins)

    def rows(self, restriction: Restriction, ends: Sequence[End]) -> Step:
        """The step that bounds ends of units of one group of a restricted network."""
        unit, sign = (np.array(part) for part in zip(*(end[:2] for end in ends), strict=True))
        return self._step(restriction, unit, sign, np.stack([end.alpha for end in ends]))

    def cut(self, restriction: Restriction, rows: Rows, margins: Margins) -> Step:
        """The step of rows that lean on a group's margins.

        Raises:
          RecordError: float32 does not hold their weights.
        """
        scale = restriction.scale[rows.unit][:, None]
        # All are powers of two.
        weight = np.asarray(rows.weight * (scale / margins.unit), np.float32)
        if not np.array_equal(weight * (margins.unit / scale), rows.weight):
            raise RecordError("weights of margins beyond float32's range")
        return self._step(restriction, rows.unit, rows.sign, rows.alpha, weight)

    def _step(
        self,
        restriction: Restriction,
        unit: np.ndarray,
        sign: np.ndarray,
        alpha: np.ndarray,
        weight: np.ndarray | None = None,
    ) -> Step:
        named = self.named(restriction)
        slopes = named.slopes(alpha)
        node = int(restriction.node[unit[0]])
        relu = self.network.structure.relus.index(node)
        # Rows that lean on margins pass all ReLUs.
        stop = self.network.starts[-1 if weight is not None else relu]
        earlier = slopes.unit < stop
        half = slopes.alpha.astype(np.float16)
        exact = (half == slopes.alpha).all()
        rows = RowSet(
            restriction.neuron[unit],
            sign,
            slopes.unit[earlier],
            (half if exact else slopes.alpha.astype(np.float32))[:, earlier],
            weight,
        )
        return Step(relu, rows)

    def batch(self, restriction: Restriction, margins: Sequence[Margins]) -> Batch:
        """What keeps the domains that a search of many at a time closes."""
        return Batch(
            self.named(restriction),
            margins,
            lambda rows: self.cut(restriction, rows, margins[rows.target]),
        )

    def into(self, steps: list[Step]) -> Callable[[Restriction, Sequence[End]], None]:
        """What adds the steps of `rows` to a list."""
        return lambda restriction, ends: steps.append(self.rows(restriction, ends))

    def closed(self, number: int, steps: tuple[Step, ...], leaves: list[Leaf]) -> None:
        """Keeps the tree of a group.

        Args:
          number: the group's.
          steps: that its bounds rest on, behind those of the root.
          leaves: all of them.
        """
        self.trees[number] = phase_tree(number, steps, leaves)

    def boxes(self, tree: BoxTree) -> None:
        """Keeps a tree over boxes."""
        for number in tree.groups:
            self.trees[number] = tree

    def unsafe(self, point: np.ndarray) -> bool:
        """Whether the outputs at a point [*shape] are unsafe by more than float64 rounds."""
        point = np.asarray(point, np.float64).ravel()
        layers = Layers(self.network, Region(point, point, point, 0.0, "linf"))
        for step in rules(self.network.structure, (INTERVAL,), "linf"):
            layers.take(step)
        # Over this one point: `c . f + d` is at least what `-(c . f + d)` is at most.
        least = layers.margins(INTERVAL, -self.goal.rows, -self.goal.offset)
        return any((least[places] > 0).all() for places in self.goal.groups.values())

    def example(self, stage: str) -> Example:
        """What is proven, of a case that is verified."""
        trees = tuple({id(tree): tree for tree in self.trees.values()}.values())
        return Example(self.query, files.VERIFIED, stage, self._steps, self._margins, trees)

    def counterexample(self, stage: str, point: np.ndarray) -> Example:
        """That a point [*shape] has unsafe outputs."""
        return Example(self.query, files.FALSIFIED, stage, point=point)


class Batch:
    """The closed domains of a search of many at a time, on one restricted network."""

    def __init__(self, named: Named, margins: Sequence[Margins], step: Callable[[Rows], Step]):
        """Of the margins of several targets; `step` writes rows down that lean on these."""
        self._named, self._margins, self._step = named, margins, step
        #: By the place of the target.
        self.leaves: list[list[Leaf]] = [[] for _ in margins]
        #: Likewise, the bounds that these rest on behind those of all.
        self.steps: list[list[Step]] = [[] for _ in margins]

    def forget(self, target: int) -> None:
        """Forgets all domains of a target."""
        self.leaves[target].clear()

    def nowhere(self, target: int) -> None:
        """A target's bounds leave nothing to be shown: a leaf that need not show it."""
        none = np.zeros(0, np.int32)
        weight = np.zeros(len(self._margins[target].unit), np.float32)
        slopes = Slopes(none, np.zeros(0, np.float16))
        self.leaves[target][:] = [Leaf(none, none, np.zeros(0, np.float32), slopes, weight)]

    def cut(self, rows: Rows) -> None:
        """Keeps bounds that lean on a target's margins, which all that is closed later rests on."""
        self.steps[rows.target].append(self._step(rows))

    def close(self, domains: Domains) -> None:
        """Keeps domains that multipliers, as they are in float16, prove."""
        for place in range(len(domains)):
            target = int(domains.target[place])
            margins, phases = self._margins[target], domains.phases[place]
            mix, unit = domains.mix[place].astype(float), domains.unit[place].astype(float)
            weight = np.zeros(len(margins.unit))
            # Where others have more margins, those of this target come again.
            np.add.at(weight, np.arange(len(mix)) % len(weight), mix / mix.sum())
            alpha = np.where(phases == 0, unit, 0.0).astype(np.float16)
            beta = np.where(phases != 0, unit, 0.0)
            self.leaves[target].append(self._named.leaf(phases, alpha, beta, weight / margins.unit))
