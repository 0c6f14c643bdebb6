"""Trees of proofs as files have them: the order that they are read in leaves no leaf out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .members import Members
from .network import Node, need
from .rejection import RejectedError
from .sets import Region
from .slopes import RULES, Given
from .steps import RowSet, Step

LEAF = -1
_ALPHA = ("<f4", "<f2", "|u1")


class Phases(NamedTuple):
    """A tree of phases of ReLUs that closes one group.

    Attributes:
      group: which.
      bounds: further steps from those of the example.
      given: the multipliers of its leaves.
      weight: of the group's margins, [leaves, j].
    """

    group: int
    bounds: tuple[Step, ...]
    given: Given
    weight: np.ndarray


class Boxes(NamedTuple):
    """A tree of boxes that closes groups.

    Attributes:
      groups: which, as they are numbered in `closes`.
      bounds, margins: what is done on every box where something is closed.
      split, at: of nodes in preorder, the entry of the input that is split, or -1, and where.
      closes: [nodes, groups].
    """

    groups: tuple[int, ...]
    bounds: tuple[Step, ...]
    margins: tuple[str, ...]
    split: np.ndarray
    at: np.ndarray
    closes: np.ndarray


def walk(split: np.ndarray, where: str) -> Iterator[tuple[int, list[int], list[int]]]:
    """Every node in preorder with the splits above it and their sides.

    The two lists are the same ones all the time, and change as the walk goes on.

    Raises:
      RejectedError: the nodes end before the tree does, or go on after it.
    """
    above: list[int] = []
    sides: list[int] = []
    for node, value in enumerate(split.tolist()):
        if node > 0 and not above:
            raise RejectedError(where, "split", f"it ends at node {node}, and others follow")
        yield node, above, sides
        if value != LEAF:
            above.append(value)
            sides.append(1)
            continue
        while sides and sides[-1] < 0:
            above.pop()
            sides.pop()
        if sides:
            sides[-1] = -1
    if above or not len(split):
        raise RejectedError(where, "split", f"a leaf is left out behind node {len(split) - 1}")


class Reader:
    """The proof of one example."""

    def __init__(self, index: int, own: Members, nodes: tuple[Node, ...], group: np.ndarray):
        self.example, self.where = f"example {index}", f"examples[{index}]"
        self.own, self.nodes, self.group = own, nodes, group
        self.sizes = [int(np.prod(n.shape)) for n in nodes if n.op == "relu"]
        self.sets: list[tuple[int, RowSet]] = []

    def steps(self, given: Any, where: str, conditions: int | None) -> tuple[Step, ...]:
        """Steps as a header has them; `conditions` are those of the group that a tree is of."""
        need(isinstance(given, list), where, "a list of steps", given)
        return tuple(self._step(text, f"{where}[{k}]", conditions) for k, text in enumerate(given))

    def rules(self, given: Any, where: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
        """Rules as a header has them."""
        right = isinstance(given, list) and all(type(r) is str and r in allowed for r in given)
        need(right and len(given) <= 100, where, f"a list of {', '.join(allowed)}", given)
        return tuple(given)

    def trees(self, given: Any) -> tuple[Phases | Boxes, ...]:
        """All trees."""
        where = f"{self.where}.trees"
        need(isinstance(given, list), where, "a list", given)
        return tuple(self._tree(k, text, f"{where}[{k}]") for k, text in enumerate(given))

    def _step(self, text: Any, where: str, conditions: int | None) -> Step:
        right = isinstance(text, list) and len(text) >= 2 and type(text[0]) is int
        need(right and 0 <= text[0] < len(self.sizes), where, "the number of a ReLU, a rule", text)
        relu, rule = text[:2]
        if rule == "rows":
            need(len(text) == 3, where, "a ReLU, rows and their number", text)
            return Step(relu, rule, self._rows(text[2], relu, where, conditions))
        need(len(text) == 2 and type(rule) is str and rule in RULES, where, "a rule", text)
        return Step(relu, rule, None)

    def _rows(self, number: Any, relu: int, where: str, conditions: int | None) -> RowSet:
        """Rows that are there already, without weights, or the next ones."""
        next_ = len(self.sets)
        right = type(number) is int and 0 <= number <= next_
        need(right, where, f"rows of a number up to {next_}", number)
        if number == next_:
            self.sets.append((relu, self._row_set(relu, number, conditions)))
        owner, found = self.sets[number]
        need(owner == relu, where, f"rows of ReLU {owner}", relu)
        shared = number == next_ or found.weight is None
        need(shared, where, "rows without weights, as they are another tree's too", number)
        return found

    def _row_set(self, relu: int, number: int, conditions: int | None) -> RowSet:
        own = self.own.of(f"r{number}")
        count = own.count("neuron")
        neuron = own.take("neuron", ("<i4",), (count,))
        fits = ((neuron >= 0) & (neuron < self.sizes[relu])).all()
        need(fits, f"{own.prefix}neuron", f"places below {self.sizes[relu]}", "others")
        end = own.take("end", ("|i1",), (count,))
        need((np.abs(end) == 1).all(), f"{own.prefix}end", "1 or -1", "others")
        weight = None
        if conditions is not None and own.has("weight"):
            weight = self._weight(own, count, conditions)
        none = np.zeros(0, np.int64)
        unit, alpha = self._alpha(own, count)
        given = Given(unit, alpha, none, none, none, np.zeros(0))
        return RowSet(number, neuron, end, given, weight)

    def _alpha(self, own: Members, count: int) -> tuple[np.ndarray, np.ndarray]:
        values = self.own.arrays.get(f"{own.prefix}unit")
        size = len(values) if values is not None and values.ndim == 1 else 0
        unit = own.take("unit", ("<i4",), (size,)).astype(np.int64)
        rising = (unit[1:] > unit[:-1]).all() and (unit >= 0).all()
        right = rising and (unit < sum(self.sizes)).all()
        need(right, f"{own.prefix}unit", f"units below {sum(self.sizes)}, increasing", "others")
        return unit, own.take("alpha", _ALPHA, (count, size))

    def _weight(self, own: Members, count: int, conditions: int) -> np.ndarray:
        return own.take("weight", ("<f4",), (count, conditions)).astype(np.float64)

    def _tree(self, index: int, text: Any, where: str) -> Phases | Boxes:
        need(isinstance(text, dict), where, "an object", text)
        kind, own, tree = (
            text.get("kind"),
            self.own.of(f"t{index}"),
            f"{self.example}: tree {index}",
        )
        fields = {
            "phases": {"kind", "group", "bounds"},
            "boxes": {"kind", "groups", "bounds", "margins"},
        }
        need(type(kind) is str and kind in fields, where, "kind phases or boxes", kind)
        need(set(text) == fields[kind], where, f"the fields {sorted(fields[kind])}", set(text))
        split = own.take("split", ("<i4",), (own.count("split"),))
        if kind == "phases":
            return self._phases(text, where, own, split, tree)
        return self._boxes(text, where, own, split)

    def _group(self, given: Any, where: str) -> int:
        known = type(given) is int and given >= 0 and (self.group == given).any()
        need(known, where, "the number of a group", given)
        return given

    def _phases(self, text: dict[str, Any], where: str, own: Members, split, tree) -> Phases:
        group = self._group(text["group"], f"{where}.group")
        conditions = int((self.group == group).sum())
        steps = self.steps(text["bounds"], f"{where}.bounds", conditions)
        fits = ((split >= LEAF) & (split < sum(self.sizes))).all()
        need(fits, f"{own.prefix}split", f"units below {sum(self.sizes)}, or -1", "others")
        row, fixed, sign = _leaves(split, own, tree)
        count = int((split == LEAF).sum())
        unit, alpha = self._alpha(own, count)
        beta = own.take("beta", ("<f4",), (len(row),)).astype(np.float64)
        given = Given(unit, alpha, row, fixed, sign, beta)
        return Phases(group, steps, given, self._weight(own, count, conditions))

    def _boxes(self, text: dict[str, Any], where: str, own: Members, split) -> Boxes:
        groups = text["groups"]
        need(isinstance(groups, list) and len(groups) > 0, f"{where}.groups", "a list", groups)
        groups = tuple(self._group(g, f"{where}.groups") for g in groups)
        need(len(set(groups)) == len(groups), f"{where}.groups", "each once", groups)
        steps = self.steps(text["bounds"], f"{where}.bounds", None)
        rules = self.rules(text["margins"], f"{where}.margins", RULES)
        entries = int(np.prod(self.nodes[0].shape))
        fits = ((split >= LEAF) & (split < entries)).all()
        need(fits, f"{own.prefix}split", f"entries below {entries}, or -1", "others")
        at = np.full(len(split), np.nan)
        at[split != LEAF] = own.take("at", ("<f8",), (int((split != LEAF).sum()),))
        closes = own.take("closes", ("|u1",), (len(split), len(groups)))
        need((closes <= 1).all(), f"{own.prefix}closes", "0 or 1", "others")
        return Boxes(groups, steps, rules, split, at, closes == 1)


def _leaves(split: np.ndarray, own: Members, tree: str):
    """The phases of all leaves, one leaf after the other: which leaf, which unit, which side."""
    values = own.arrays.get(f"{own.prefix}beta")
    most = values.size if values is not None else 0
    rows: list[int] = []
    units: list[int] = []
    signs: list[int] = []
    leaf = 0
    for node, above, sides in walk(split, tree):
        if split[node] != LEAF:
            continue
        if len(set(above)) < len(above):
            raise RejectedError(
                f"{tree}, leaf {leaf}", "split", "a unit is split twice on its path"
            )
        # Paths are written out only as far as there are multipliers for them.
        if len(rows) + len(above) > most:
            raise RejectedError(f"{tree}, leaf {leaf}", "beta", "a phase has no multiplier")
        rows += [leaf] * len(above)
        units += above
        signs += sides
        leaf += 1
    if len(rows) < most:
        raise RejectedError(tree, "beta", f"{most} multipliers for {len(rows)} phases")
    return np.array(rows, np.int64), np.array(units, np.int64), np.array(signs, np.int64)


def closing(tree: Boxes, region: Region, where: str):
    """The boxes of nodes that close something: number, low, high.

    Raises:
      RejectedError: a split outside its box, a leaf left out, or one with a group that no box on
        its way closes.
    """
    stack = [(region.low[0], region.high[0], np.full(len(tree.groups), True))]
    for node, entry in enumerate(tree.split.tolist()):
        if not stack:
            raise RejectedError(where, "split", f"it ends at node {node}, and others follow")
        low, high, open_ = stack.pop()
        if tree.closes[node].any():
            yield node, low, high
            open_ = open_ & ~tree.closes[node]
        if entry == LEAF:
            if open_.any():
                group = tree.groups[int(open_.argmax())]
                what = f"no box on the way closes group {group}"
                raise RejectedError(f"{where}, leaf at node {node}", "closes", what)
            continue
        at = tree.at[node]
        if not low.flat[entry] < at < high.flat[entry]:
            what = f"entry {entry} is split at {at:.9g}, which is not within its interval"
            raise RejectedError(f"{where}, box at node {node}", "at", what)
        above, below = low.copy(), high.copy()
        above.flat[entry] = below.flat[entry] = at
        stack += [(low, below, open_), (above, high, open_)]
    if stack:
        raise RejectedError(where, "split", f"a leaf is left out behind node {len(tree.split) - 1}")
