"""Derives a certificate anew from its network, images and relaxation, and compares.

Layer by layer: the band of every ReLU must enclose the ReLU between the claimed bounds, and these
must be what a backward pass of each neuron through the bands before gives; so must the margins.
For the mode `sound` all rounding is counted, this program's too, and nothing is tolerated that
makes a claim stronger than what follows. docs/certificates.md says what acceptance means.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .claim import Band, Claim, Node
from .conditions import NO_GROUP
from .inputs import half_widths
from .maxima import Maximum, cut, maximum
from .operations import Add, Affine, Dense
from .plain import check_classes, check_plain
from .rejection import RejectedError
from .rounding import FEW, LARGEST, ROUNDED, SMALLEST, TINY, TOLERANCES, UNIT32, UNIT64
from .state import State, bounded, weighed
from .windows import Windows

#: Bytes that the rows of one pass may take.
BUDGET = 2**27


class Derived(NamedTuple):
    """What follows from an accepted certificate: margins [n, k], and certified [n]."""

    margin_lower: np.ndarray
    certified: np.ndarray


def check(claim: Claim, network_sha256: str | None = None) -> Derived:
    """Accepts a certificate by returning what follows from it.

    Args:
      claim: as `claim.read` gives it.
      network_sha256: that the network must have; by default the one that the file names.

    Raises:
      RejectedError: the first layer and field that do not hold.
    """
    return checked(Check(claim), network_sha256)


def checked(check: Check, network_sha256: str | None = None) -> Derived:
    """As `check`, by a pass that is made already."""
    claim = check.claim
    if claim.named_sha256 != claim.sha256:
        raise RejectedError("network", "network_sha256", f"the network's hash is {claim.sha256}")
    if network_sha256 is not None and network_sha256.lower() != claim.sha256:
        raise RejectedError("network", "network_sha256", f"{claim.sha256} is another network's")
    check_plain(claim)
    with np.errstate(all="ignore"):
        return check.run()


class Check:
    """One pass over a certificate."""

    def __init__(self, claim: Claim):
        self.claim, self.nodes = claim, claim.nodes
        self.sound = claim.mode == "sound"
        self.tolerance = TOLERANCES[claim.mode]
        numbers = 100 + sum(math.prod(node.shape) for node in self.nodes)
        self.share = 1 + FEW * numbers if self.sound else 1.0
        self.few, self.tiny = (FEW, TINY) if self.sound else (0.0, 0.0)
        self.centre, self.radius = half_widths(claim, self.few)
        # Of how many rows a node's are the sum, and at most those of an input, which may cancel.
        readers = [sum(n.inputs.count(i) for n in self.nodes) for i in range(len(self.nodes))]
        inputs = [[readers[i] for i in node.inputs] for node in self.nodes]
        self.consumers = [own + max(n, default=0) for own, n in zip(readers, inputs, strict=True)]
        self.slopes: dict[int, np.ndarray] = {}
        self.charges: dict[int, np.ndarray] = {}
        self.offs: dict[int, np.ndarray] = {}
        self.states: list[State] = []

    def run(self) -> Derived:
        """Goes through the network; what follows from it."""
        states = self.states
        safe = np.full(len(self.claim.x), True)
        bands = iter(enumerate(self.claim.bands))
        one_matrix = self._one_matrix()
        for index, node in enumerate(self.nodes):
            if node.op is None:
                state = State(self.centre, self.radius, np.zeros_like(self.centre))
            elif node.op == "relu":
                below = node.inputs[0]
                number, band = next(bands)
                where = f"ReLU {number} (network[{index}])"
                radius = self._radius(below, states[below], below in one_matrix)
                self._check_band(where, band, states[below], radius)
                state = self._past_relu(index, band, states[below], radius)
            else:
                state, sane = self._past_affine(index, node, states)
                safe &= sane
            if self.sound:
                safe &= bounded(state.magnitude)
            states.append(state)
        return self._check_margins(states[-1], safe)

    def _one_matrix(self) -> set[int]:
        """Nodes for which intervals are exact: between them and the pixels, one matrix at most."""
        found = {0: 0}
        for index, node in enumerate(self.nodes[1:], start=1):
            chain = isinstance(node.op, Affine) and len(node.inputs) == 1
            if chain and node.inputs[0] in found:
                found[index] = found[node.inputs[0]] + (not node.affine.diagonal)
        linf = self.claim.norm == "linf"
        return {index for index, count in found.items() if linf and count <= 1}

    def _past_affine(self, index: int, node: Node, states: list[State]):
        op, below = node.affine, [states[i] for i in node.inputs]
        centre = op.forward(*(s.centre for s in below))
        width = op.absolute(*(s.width for s in below))
        pushed = op.absolute(*(s.pushed for s in below))
        sane = np.full(len(centre), True)
        if self.sound:
            off, sane = self._deviation(index, op, [s.magnitude for s in below])
            width, pushed = width + off, (pushed + off) * ROUNDED
            self.offs[index] = off
        state, found = State(centre, width, pushed), maximum(self.nodes, index)
        if found is not None:
            room = sum((self.offs.get(i, 0.0) for i in found.within), self.offs.get(index, 0.0))
            state = self._past_maximum(state, found, room)
        return state, sane

    def _past_maximum(self, state: State, found: Maximum, room: np.ndarray | float) -> State:
        return cut(state, found, self.states, room) if self.sound else state

    def _deviation(self, index: int, op: Affine, magnitudes: list[np.ndarray]):
        """How far float32 may be off the operation, and float64 here; and where none overflows."""
        sane = np.all([bounded(m) for m in magnitudes], axis=0)
        if op.exact:
            return np.zeros((len(sane), *op.out_shape)), sane
        reach, counts = op.sizes(*magnitudes), op.counts
        product = UNIT32 * (op.present(*magnitudes) + counts.extra + self._joined(index))
        rate = np.where(product < 0.5, product / (1 - product), np.inf) * ROUNDED
        product = UNIT64 * 4 * (counts.terms + counts.rows + self.consumers[index] + 32)
        rate = rate + product / (1 - product)
        largest = np.sum([m.reshape(len(sane), -1).max(1) for m in magnitudes], axis=0)
        flushed = 2 * SMALLEST * (counts.terms + 1) * (largest + op.largest + 4)
        sane = sane & bounded(reach) & (op.largest <= LARGEST) & op.sane
        return rate * reach + flushed.reshape(-1, *(1,) * len(op.out_shape)), sane

    def _joined(self, index: int) -> int:
        """More roundings of a sum of branches, where it is computed in one with a convolution."""
        if not isinstance(self.nodes[index].op, Add):
            return 0
        ops = [self.nodes[i].op for i in self.nodes[index].inputs]
        return max((op.counts.terms for op in ops if isinstance(op, Dense | Windows)), default=0)

    def _past_relu(self, index: int, band: Band, below: State, radius: np.ndarray) -> State:
        half = 0.5 * band.intercept
        lost = band.slope * (np.abs(below.centre) + radius) + band.intercept
        own = half + self.few * (self.consumers[index] + 2) * lost
        if self.sound:
            own = own + np.where(band.upper > 0, SMALLEST, 0.0)
        self.slopes[index] = band.slope
        self.charges[index] = own + band.slope * below.pushed
        centre = band.slope * below.centre + half
        return State(centre, band.slope * radius + own, np.zeros_like(centre))

    def _radius(self, index: int, state: State, by_intervals: bool) -> np.ndarray:
        """How far a node's values can be off their centres, neuron by neuron."""
        if by_intervals:
            return state.width
        size, shape = math.prod(self.nodes[index].shape), self.nodes[index].shape

        def unit(first: int, last: int) -> np.ndarray:
            return np.eye(last - first, size, first).reshape(1, -1, *shape)

        reach = self._reach(index, size, unit).reshape(state.centre.shape)
        found = reach * self.share + state.pushed + self.tiny
        # For plain modes too the interval is a bound, but one that rounding alone may win by.
        return np.minimum(found, state.width) if self.sound else found

    def _reach(self, index: int, count: int, rows: Callable[[int, int], np.ndarray]) -> np.ndarray:
        """`sum |nu| . charge + support` of `count` rows on a node, [n, count], in slices."""
        images, widest = len(self.claim.x), max(math.prod(node.shape) for node in self.nodes)
        size = max(1, BUDGET // (8 * widest * images))
        parts = [
            self._backward(index, rows(first, min(first + size, count)))
            for first in range(0, count, size)
        ]
        return np.concatenate(parts, axis=1)

    def _backward(self, index: int, rows: np.ndarray) -> np.ndarray:
        total, rows = self._pulled(index, rows)
        return total + self.support(rows)

    def _pulled(self, index: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`sum |nu| . charge` of rows on a node, [n, r], and the rows on the image, [n, r, ...]."""
        pending, images = {index: rows}, len(self.claim.x)
        total = np.zeros((images, rows.shape[1]))
        for at in range(index, 0, -1):
            if at not in pending:
                continue
            node, here = self.nodes[at], pending.pop(at)
            if node.op == "relu":
                total += weighed(np.abs(here), self.charges[at])
                here = here * self.slopes[at][:, None]
            else:
                merged = node.affine.transpose(here.reshape(-1, *node.shape))
                here = merged.reshape(*here.shape[:2], *node.affine.in_shape)
            for i in node.inputs:
                pending[i] = pending[i] + here if i in pending else here
        return total, pending[0]

    def support(self, rows: np.ndarray) -> np.ndarray:
        """The largest value of rows on the image over the set less its centre, [n, r]."""
        here, images = np.abs(rows), len(self.claim.x)
        walls = weighed(here, self.radius)
        if self.claim.norm == "linf":
            return walls
        # Pixels that cannot move take no part in the ball.
        flat = (here * (self.radius > 0)[:, None]).reshape(images, here.shape[1], -1)
        dual = np.sqrt(np.square(flat).sum(-1)) if self.claim.norm == "l2" else flat.max(-1)
        reach = self.claim.radius[:, None] * dual
        return np.minimum(walls, reach) if self.claim.cut else reach

    def _check_band(self, where: str, band: Band, below: State, radius: np.ndarray) -> None:
        """The claimed bounds follow, and the claimed band encloses the ReLU between them."""
        wrong = [name for name, values in band._asdict().items() if not np.isfinite(values).all()]
        if wrong:
            raise RejectedError(where, wrong[0], "holds numbers that are not finite")
        radius = radius + self.few * (radius + np.abs(below.centre)) + self.tiny
        scale = self.tolerance * below.magnitude
        low, high = below.centre - radius, below.centre + radius
        self.compare(where, "lower", band.lower, low, scale)
        self.compare(where, "upper", -band.upper, -high, scale)
        if not (band.lower <= band.upper).all():
            raise RejectedError(where, "upper", "is below lower")
        if not ((band.slope >= 0) & (band.slope <= 1)).all():
            raise RejectedError(where, "slope", "leaves [0, 1]")
        # relu(z) - slope z is convex, at least 0, and largest at one of the ends.
        d, low, high = band.slope, band.lower, band.upper
        ends = np.maximum(
            np.where((low < 0) & (d > 0), -d * low * (1 + FEW) + TINY * self.sound, 0.0),
            np.where((high > 0) & (d < 1), (1 - d) * high * (1 + FEW) + TINY * self.sound, 0.0),
        )
        scale = self.tolerance * np.maximum(np.abs(low), np.abs(high))
        self.compare(where, "intercept", -band.intercept, -ends, scale, "slope and intercept: ")

    def compare(self, where, field, claimed, follows, scale, what: str = "") -> None:
        """Refuses (`RejectedError`) a claim other than what follows.

        `claimed <= follows`, up to `scale` where it is not sound; and not lower by more."""
        above = np.zeros_like(scale) if self.sound else scale
        scale = scale + 2**26 * SMALLEST * self.sound  # what flushing to zero adds has no size
        wrong = ~((claimed <= follows + above) & (claimed >= follows - scale))
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            shown = ", ".join(f"{abs(v[at]):.9g}" for v in (claimed, follows))
            raise RejectedError(
                where, field, f"{what}at {at} claimed and derived are {shown} in size"
            )

    def _check_margins(self, last: State, safe: np.ndarray) -> Derived:
        asked = self.claim.conditions
        rows, count = asked.rows, asked.rows.shape[1]
        reach = self._reach(len(self.nodes) - 1, count, lambda a, b: rows[:, a:b])
        upper = asked.read(last.centre) + reach * self.share
        return self._compared(upper, last, safe)

    def _rounded(self, upper: np.ndarray, last: State) -> np.ndarray:
        """Upper bounds of margins without what was pushed on since the last ReLU, with it."""
        asked = self.claim.conditions
        if not self.sound:
            return upper
        sizes = np.maximum(asked.terms, 2) * asked.weighed(last.magnitude)
        upper = upper + asked.weighed(last.pushed)
        return upper + FEW * (np.abs(upper) + sizes) + TINY

    def _compared(self, upper: np.ndarray, last: State, safe: np.ndarray) -> Derived:
        """Compares the claimed margins with those of upper bounds [n, k] of `c . f`."""
        claim, asked = self.claim, self.claim.conditions
        upper, sizes = self._rounded(upper, last), asked.weighed(last.magnitude)
        if self.sound:
            moved = FEW * (np.abs(upper) + np.abs(asked.offset)) + TINY
            upper = upper + np.where(asked.offset == 0, 0.0, asked.offset + moved)
        else:
            upper = upper + asked.offset
        follows = np.where(safe[:, None], -upper, -np.inf)
        follows[asked.group == NO_GROUP] = 0.0
        if not np.isfinite(follows).all():
            raise RejectedError("logits", "margin_lower", "what follows is not finite")
        sizes = self.tolerance * (sizes + np.abs(asked.offset))
        self.compare("logits", "margin_lower", claim.margin_lower, follows, sizes)
        if claim.predicted is not None:
            check_classes(claim, claim.predicted)
        # What is certified is what both say, the claim and the derivation.
        both = np.minimum(follows, claim.margin_lower)
        return Derived(follows, asked.kept_out(both) & claim.safe)
