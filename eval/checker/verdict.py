"""Derives a proof anew, example by example, and accepts it or names what does not hold.

docs/certificates.md says what acceptance means. Nothing is compared with numbers of the file: only
multipliers are taken from it, and any that are allowed give bounds that hold.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .knowledge import Knowledge, Subject, fractions
from .proof import FALSIFIED, OPEN, Example
from .rejection import RejectedError
from .rounding import EXACT
from .sets import Region, ball, within
from .slopes import CROWN, Given, Slopes
from .steps import Asked, Step, follow, margins, slices, weighed_margins
from .trees import Boxes, Phases, closing

#: Boxes that are derived at once.
_TOGETHER = 256


class Found(NamedTuple):
    """Of an example that was accepted.

    Attributes:
      verdict: that was proven or replayed; "open" where nothing is claimed.
      bound: a number or a fraction: the least bound among those that closed groups; how far a
        counterexample's conditions hold; None of what is open.
      leaves: how many were derived.
    """

    verdict: str
    bound: Any
    leaves: int


class Checker:
    """Checks examples of one network.

    Args:
      nodes: of the network.
      float32: whether the float32 forward pass counts too.
      exact: the nodes again, with fractions for weights: everything is derived in these then.
    """

    def __init__(self, nodes, float32: bool = False, exact=None):
        self.subject = Subject(nodes, float32=float32)
        self.exact = None if exact is None else Subject(exact, EXACT)

    def check(self, example: Example, name: str) -> Found:
        """What follows from an example.

        Raises:
          RejectedError: its claim does not; the first layer, tree or leaf where it fails.
        """
        if example.verdict == OPEN:
            return Found(OPEN, None, 0)
        with np.errstate(all="ignore"):
            if example.verdict == FALSIFIED:
                return self._falsified(example, name)
            return _Verified(self, example, name).run()

    def known(self, region: Region) -> Knowledge:
        """What is known of sets at first."""
        known = Knowledge(self.subject, region)
        if self.exact is None:
            return known
        low, high = (fractions(np.asarray(end, np.float64)) for end in region[:2])
        centre, radius = (None if a is None else fractions(a) for a in region[3:])
        return Knowledge(self.exact, Region(low, high, region.norm, centre, radius), known)

    def _falsified(self, example: Example, name: str) -> Found:
        point = example.point
        assert point is not None
        where = f"{name}: counterexample"
        if not within(example.norm, example.x, example.radius, example.walls, point):
            raise RejectedError(where, "point", "it is not in the set")
        known = self.known(Region(point[None], point[None]))
        relus = range(len(self.subject.relus))
        follow(known, [Step(k, rule, None) for k in relus for rule in ("interval", CROWN)])
        # Conditions that hold for sure: the least of `c . f + d` is at least 0.
        asked = Asked(-example.asked.rows, -example.asked.offset)
        least = margins(known, asked, CROWN)[0]
        groups = [g for g in np.unique(example.group) if g >= 0]
        worst = [least[example.group == g].min() for g in groups]
        best = int(np.argmax(worst))
        if not worst[best] >= 0:
            reason = f"no group's conditions all hold: the best has {float(worst[best]):.3g}"
            raise RejectedError(where, "outputs", reason)
        return Found(FALSIFIED, worst[best], 0)


class _Verified:
    """The proof of one example."""

    def __init__(self, checker: Checker, example: Example, name: str):
        self.checker, self.example, self.name = checker, example, name
        self.asked, self.group = example.asked, example.group
        self.closed: dict[int, Any] = {}
        self.leaves = 0
        # By what tells steps apart.
        self.followed: dict[tuple, Knowledge] = {}

    def run(self) -> Found:
        example = self.example
        known = self.checker.known(self._region())
        _follow(known, example.bounds, self.name)
        for rule in example.margins:
            least = _margins(known, self.asked, rule, self.name)[0]
            for group in np.unique(self.group[self.group >= 0]).tolist():
                self._close(group, least[self.group == group].max())
        for number, tree in enumerate(example.trees):
            where = f"{self.name}: tree {number}"
            if isinstance(tree, Phases):
                self._phases(known, tree, where)
            else:
                self._boxes(tree, where)
        for group in np.unique(self.group[self.group >= 0]).tolist():
            if group not in self.closed:
                what = f"class {group}" if example.label is not None else f"group {group}"
                raise RejectedError(self.name, "groups", f"{what} is not closed")
        return Found("verified", min(self.closed.values()), self.leaves)

    def _region(self) -> Region:
        example = self.example
        walls = example.walls and tuple(wall[None] for wall in example.walls)
        rounding = self.checker.subject.rounding
        region = ball(example.norm, example.x[None], example.radius[None], walls, rounding)
        if not np.isfinite(region.low).all() or not np.isfinite(region.high).all():
            raise RejectedError(self.name, "set", "it is not bounded")
        return region

    def _close(self, group: int, bound: Any) -> None:
        if bound > 0:
            self.closed[group] = max(bound, self.closed.get(group, bound))

    def _phases(self, known: Knowledge, tree: Phases, where: str) -> None:
        _allowed(tree.given, tree.weight, where, "leaf")
        asked = self.asked.take(self.group == tree.group)
        known = self._followed(known, tree.bounds, where, asked)
        gap = known.gap
        if gap > 0:
            # No input has numbers between such bounds: nothing is left for leaves to show.
            self.closed[tree.group] = gap
            return
        count, least = len(tree.weight), []
        for first, last in slices(known, count, 2):
            slopes = Slopes(known, CROWN, tree.given.take(first, last))
            found = weighed_margins(known, asked, tree.weight[first:last], slopes)[0]
            bad = np.flatnonzero(~(found > 0))
            if len(bad):
                leaf = first + int(bad[0])
                raise RejectedError(
                    f"{where}, leaf {leaf} of {count}{_path(tree.given, leaf)}",
                    "bound",
                    f"what follows is {float(found[bad[0]]):.6g}, which is not above 0",
                )
            least.append(found.min())
        self.leaves += count
        self.closed[tree.group] = min(least)

    def _followed(self, known: Knowledge, steps, where: str, asked: Asked) -> Knowledge:
        """What further steps make known; what trees have in common is derived once."""
        keys = [(step.relu, step.rule, step.rows and step.rows.number) for step in steps]
        alike = [step.rows is None or step.rows.weight is None for step in steps]
        shared = alike.index(False) if False in alike else len(steps)
        done = shared
        while done and tuple(keys[:done]) not in self.followed:
            done -= 1
        if done:
            known = self.followed[tuple(keys[:done])]
        if done < len(steps):
            known = known.copy()
        if done < shared:
            _follow(known, steps[done:shared], where, asked)
            self.followed[tuple(keys[:shared])] = known
        if shared < len(steps):
            known = known.copy()
            _follow(known, steps[shared:], where, asked)
        return known

    def _boxes(self, tree: Boxes, where: str) -> None:
        if self.example.norm != "linf":
            raise RejectedError(where, "split", "only boxes are split, not balls")
        for step in tree.bounds:
            if step.rows is not None:
                _allowed(step.rows.given, step.rows.weight, where, "row")
        least = np.full(len(tree.groups), np.inf)
        some = []
        for node, low, high in closing(tree, self._region(), where):
            some.append((node, low, high))
            if len(some) == _TOGETHER:
                least = np.minimum(least, self._close_boxes(tree, some, where))
                some = []
        if some:
            least = np.minimum(least, self._close_boxes(tree, some, where))
        self.closed.update(zip(tree.groups, least.tolist(), strict=True))

    def _close_boxes(self, tree: Boxes, some: list, where: str) -> np.ndarray:
        """The least bound of what every box closes, for each group."""
        region = Region(
            np.stack([low for _, low, _ in some]), np.stack([high for *_, high in some])
        )
        known = self.checker.known(region)
        _follow(known, tree.bounds, where)
        best = np.full((len(some), len(tree.groups)), -np.inf)
        for rule in tree.margins:
            found = _margins(known, self.asked, rule, where).astype(np.float64)
            for at, group in enumerate(tree.groups):
                best[:, at] = np.maximum(best[:, at], found[:, self.group == group].max(1))
        nodes = [node for node, *_ in some]
        bad = np.argwhere(tree.closes[nodes] & ~(best > 0))
        if len(bad):
            box, at = bad[0]
            raise RejectedError(
                f"{where}, box at node {nodes[box]}",
                "bound",
                f"group {tree.groups[at]}: what follows is {best[box, at]:.6g}, not above 0",
            )
        self.leaves += len(some)
        return np.where(tree.closes[nodes], best, np.inf).min(0)


def _follow(known: Knowledge, steps, where: str, asked: Asked | None = None) -> None:
    """The steps, after what they take from the file is looked at."""
    for number, step in enumerate(steps):
        if step.rows is not None:
            own = f"{where}: bounds {number}: ReLU {step.relu}"
            _allowed(step.rows.given, step.rows.weight, own, "row")
    try:
        follow(known, steps, asked)
    except RejectedError as error:
        raise error.within(where) from error


def _margins(known: Knowledge, asked: Asked, rule: str, where: str) -> np.ndarray:
    try:
        return margins(known, asked, rule)
    except RejectedError as error:
        raise error.within(where) from error


def _allowed(given: Given, weight: np.ndarray | None, where: str, kind: str) -> None:
    """Slopes are in [0, 1], multipliers finite and at least 0, or the first other is named."""
    alpha = given.alpha
    if alpha.dtype != np.uint8:
        bad = np.argwhere(~((alpha >= 0) & (alpha <= 1)))
        if len(bad):
            row, at = bad[0]
            what = f"unit {given.unit[at]} has {float(alpha[row, at]):.9g}, outside [0, 1]"
            raise RejectedError(f"{where}, {kind} {row}", "alpha", what)
    bad = np.flatnonzero(~((given.beta >= 0) & np.isfinite(given.beta)))
    if len(bad):
        row, unit = given.row[bad[0]], given.fixed[bad[0]]
        what = f"unit {unit} has {given.beta[bad[0]]:.9g}, not a number >= 0"
        raise RejectedError(f"{where}, {kind} {row}", "beta", what)
    if weight is not None:
        bad = np.argwhere(~((weight >= 0) & np.isfinite(weight)))
        if len(bad):
            what = f"holds {weight[tuple(bad[0])]:.9g}, not a number >= 0"
            raise RejectedError(f"{where}, {kind} {bad[0][0]}", "weight", what)


def _path(given: Given, leaf: int) -> str:
    """The phases of a leaf, for people."""
    a, b = np.searchsorted(given.row, [leaf, leaf + 1])
    if a == b:
        return ""
    pairs = zip(given.fixed[a:b].tolist(), given.sign[a:b].tolist(), strict=True)
    shown = [f"{unit}{'+' if sign > 0 else '-'}" for unit, sign in pairs]
    more = "" if len(shown) <= 12 else f" and {len(shown) - 12} more"
    return f" ({' '.join(shown[:12])}{more})"
