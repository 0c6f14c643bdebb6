"""What is known of a network's values over sets of inputs: bounds, and how far rounding reaches.

It holds for the network in real numbers, and with `float32` for its float32 forward pass too: each
affine node may be off its real value by anything up to `off`, as in `derive`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from .maxima import maximum
from .network import Node
from .operations import Add, Affine, Dense
from .rounding import FEW, LARGEST, ROUNDED, SMALLEST, TINY, UNIT32, Rounding, counted, fractions
from .sets import Region
from .windows import Windows

#: Numbers of convolutions that are written out as matrices.
LARGEST_MATRICES = 2**26
Ends = tuple[np.ndarray, np.ndarray]


class Passed(NamedTuple):
    """Of a node, [n, *shape] each.

    Attributes:
      lower, upper: its interval.
      magnitude: the largest absolute value.
      pushed: what it may be off since the last ReLU; None for nothing.
      off: what it may be off by itself; None for nothing.
    """

    lower: np.ndarray
    upper: np.ndarray
    magnitude: np.ndarray
    pushed: np.ndarray | None
    off: np.ndarray | None


class Subject:
    """A network and how its derivations round.

    Attributes:
      nodes: of the network.
      rounding: what is counted.
      relus: the nodes that are ReLUs.
      sizes: of these.
      starts: the number of the first unit of each, and that of all units.
      offsets: what affine nodes add, [*shape]; None for nothing.
    """

    def __init__(self, nodes: Sequence[Node], rounding: Rounding | None = None, float32=False):
        """`rounding`: by default that of float64, with `float32` for its forward pass as well."""
        numbers = sum(math.prod(node.shape) for node in nodes)
        longest = max((max(n.op.counts) for n in nodes if isinstance(n.op, Affine)), default=1)
        self.nodes = nodes
        self.rounding = rounding or counted(numbers + longest, float32)
        self.relus = [index for index, node in enumerate(nodes) if node.op == "relu"]
        self.sizes = [math.prod(nodes[index].shape) for index in self.relus]
        self.starts = [sum(self.sizes[:k]) for k in range(len(self.sizes) + 1)]
        self.offsets = [self._offset(node) for node in nodes]
        self._matrices: dict[int, np.ndarray | None] = {}
        self._reads: dict[int, np.ndarray] = {}

    def _offset(self, node: Node) -> np.ndarray | None:
        if not isinstance(node.op, Affine):
            return None
        nothing = self.number(np.zeros((1, *node.op.in_shape)))
        found = node.op.forward(*(nothing for _ in node.inputs))[0]
        return found if found.any() else None

    def matrix(self, index: int) -> np.ndarray | None:
        """An affine node's coefficients, [outputs, inputs]; None where there are too many."""
        if index not in self._matrices:
            self._matrices[index] = self._matrix(self.nodes[index].affine)
        return self._matrices[index]

    def _matrix(self, op: Affine) -> np.ndarray | None:
        if isinstance(op, Dense):
            return op.kernel.T
        size, width = math.prod(op.out_shape), math.prod(op.in_shape)
        held = sum(m.size for m in self._matrices.values() if m is not None)
        if size * width + held > LARGEST_MATRICES:
            return None
        parts = []
        for first in range(0, size, 256):
            rows = self.number(np.eye(min(256, size - first), size, first))
            found = op.transpose(rows.reshape(-1, *op.out_shape)).reshape(len(rows), width)
            small = found.astype(np.float32) if found.dtype == np.float64 else found
            parts.append(small if (small == found).all() else found)
        return np.concatenate(parts)

    def reads(self, index: int, outputs: np.ndarray | None) -> np.ndarray:
        """Which inputs any of some outputs of an affine node reads, [inputs]."""
        width = math.prod(self.nodes[index].affine.in_shape)
        matrix = self.matrix(index)
        if matrix is None or isinstance(self.nodes[index].op, Dense):
            return np.full(width, True)
        if index not in self._reads:
            self._reads[index] = np.packbits(np.asarray(matrix != 0, bool), axis=1)
        bits = self._reads[index]
        bits = bits if outputs is None else bits[outputs]
        found = np.bitwise_or.reduce(bits, axis=0, initial=0)
        return np.unpackbits(found, count=width).astype(bool)

    def number(self, values: np.ndarray) -> np.ndarray:
        """Values as a derivation computes with them: float64, or fractions."""
        values = np.asarray(values, np.float64)
        return fractions(values) if self.rounding.exact else values

    def below(self, number: int) -> int:
        """The node that a ReLU reads."""
        return self.nodes[self.relus[number]].inputs[0]


class Knowledge:
    """Bounds of ReLUs, and intervals of all nodes that follow from them, for `n` sets at once.

    Attributes:
      subject, region: as given.
      count: n.
      bounds: of the input of every ReLU, [n, *shape]; None for none yet.
      passed: what is known of the nodes so far.
      safe: for which sets nothing could overflow by what was known at any time, [n].
      lines: of ReLUs, as `slopes` keeps them.
      restricted: of matrices the parts that matter, as `backward` keeps them.
      shadow: of exact arithmetic the same knowledge in float64, whose slopes are taken; else None.
    """

    def __init__(self, subject: Subject, region: Region, shadow: Knowledge | None = None):
        self.subject, self.region, self.shadow = subject, region, shadow
        self.count = len(region.low)
        self.bounds: list[Ends | None] = [None] * len(subject.relus)
        self.lines: dict[int, tuple[np.ndarray, ...]] = {}
        self.restricted: dict[tuple, tuple[np.ndarray, np.ndarray]] = {}
        most = region.magnitude
        self.passed = [Passed(region.low, region.high, most, None, None)]
        self.safe = _kept(most)

    def copy(self) -> Knowledge:
        """The same knowledge, to go on from by itself."""
        found = copy.copy(self)
        found.bounds, found.passed = list(self.bounds), list(self.passed)
        found.lines, found.restricted = dict(self.lines), dict(self.restricted)
        found.shadow = self.shadow and self.shadow.copy()
        return found

    @property
    def gap(self) -> Any:
        """By how much a lower bound of a unit is above its upper one, of one set; at least 0.

        There is nothing in the set then. Where numbers may overflow nothing is known.
        """
        found = 0
        for bounds in self.bounds:
            if bounds is not None and self.safe.all():
                lower, upper = (end.reshape(-1) for end in bounds)
                finite = (np.abs(lower) < np.inf) & (np.abs(upper) < np.inf)
                found = max(found, (lower - upper)[np.asarray(finite, bool)].max(initial=0))
        return found

    def tighten(self, number: int, lower: np.ndarray, upper: np.ndarray) -> None:
        """Bounds of a ReLU's input, beside those that there are."""
        present, index = self.bounds[number], self.subject.below(number)
        if present is not None:
            lower, upper = np.maximum(present[0], lower), np.minimum(present[1], upper)
        self.bounds[number] = lower, upper
        self.lines.pop(number, None)
        # Columns of what reads this ReLU may be fewer now.
        for key in [key for key in self.restricted if key[0] > self.subject.relus[number]]:
            del self.restricted[key]
        del self.passed[self.subject.relus[number] :]
        if index < len(self.passed):
            one = self.passed[index]
            low, high, most = self._within(index, one.lower, one.upper)
            self.passed[index] = one._replace(lower=low, upper=high, magnitude=most)

    def forward(self, index: int) -> None:
        """Intervals of all nodes up to one, as they follow from the present bounds."""
        for at in range(len(self.passed), index + 1):
            node = self.subject.nodes[at]
            if node.op == "relu":
                (below,) = node.inputs
                known = self.bounds[self.subject.relus.index(at)]
                low, high = known or self.passed[below][:2]
                low, high = np.maximum(low, 0), np.maximum(high, 0)
                most = np.maximum(low, high)
                self.passed.append(Passed(low, high, most, None, None))
            else:
                self.passed.append(self._past_affine(at, node))
            self.safe = self.safe & _kept(self.passed[at].magnitude)

    def _within(self, index: int, low: np.ndarray, high: np.ndarray):
        """A node's interval and magnitude, where the bounds of a ReLU know better."""
        for number, bounds in enumerate(self.bounds):
            if bounds is not None and self.subject.below(number) == index:
                low, high = np.maximum(low, bounds[0]), np.minimum(high, bounds[1])
        return low, high, np.maximum(np.abs(low), np.abs(high))

    def _past_affine(self, index: int, node: Node) -> Passed:
        op, below = node.affine, [self.passed[i] for i in node.inputs]
        exact = self.subject.rounding.exact
        half = Fraction(1, 2) if exact else 0.5
        centre = op.forward(*((one.lower + one.upper) * half for one in below))
        halves = [(one.upper - one.lower) * half for one in below]
        if exact:
            width = op.absolute(*halves)
            return self._found(index, centre - width, centre + width, None, None)
        pairs = zip(halves, below, strict=True)
        halves = [half + FEW * (one.magnitude + half) for half, one in pairs]
        off = self._deviation(index, op, [one.magnitude for one in below])
        width = op.absolute(*halves) + off
        width = width + FEW * (np.abs(centre) + width) + TINY
        pushed = off * ROUNDED
        if any(one.pushed is not None for one in below):
            nothing = np.zeros((self.count, *op.in_shape))
            before = (nothing if one.pushed is None else one.pushed for one in below)
            pushed = (op.absolute(*before) + off) * ROUNDED
        return self._found(index, centre - width, centre + width, pushed, off)

    def _found(self, index: int, low, high, pushed, off) -> Passed:
        found = maximum(self.subject.nodes, index)
        if found is not None:
            low, high = self._cut(found, off, low, high)
        low, high, most = self._within(index, low, high)
        return Passed(low, high, most, pushed, off)

    def _deviation(self, index: int, op: Affine, magnitudes: list[np.ndarray]):
        """How far float64 may be off the operation and its transpose, and float32 off it."""
        if op.exact:
            return np.zeros((self.count, *op.out_shape))
        reach, counts = op.sizes(*magnitudes), op.counts
        rate, flushed = 4 * self.subject.rounding.gamma, TINY
        if self.subject.rounding.float32:
            product = UNIT32 * (op.present(*magnitudes) + counts.extra + self._joined(index))
            rate = rate + np.where(product < 0.5, product / (1 - product), np.inf) * ROUNDED
            largest = np.sum([m.reshape(len(m), -1).max(1) for m in magnitudes], axis=0)
            least = 2 * SMALLEST * (counts.terms + 1) * (largest + op.largest + 4)
            flushed = least.reshape(-1, *(1,) * len(op.out_shape))
        self.safe = self.safe & _kept(reach) & (op.largest <= LARGEST) & op.sane
        return rate * reach + flushed

    def _joined(self, index: int) -> int:
        """More roundings of a sum of branches, where it is computed in one with a convolution."""
        nodes = self.subject.nodes
        if not isinstance(nodes[index].op, Add):
            return 0
        ops = [nodes[i].op for i in nodes[index].inputs]
        return max((op.counts.terms for op in ops if isinstance(op, Dense | Windows)), default=0)

    def _cut(self, found, off, low: np.ndarray, high: np.ndarray) -> Ends:
        """A maximum is no wider than the maxima of the ends of both sides leave it."""
        lows, highs = [], []
        for node, pick in found.sides:
            ends = self.passed[node][:2]
            least, most = ends if pick is None else (pick.linear(end) for end in ends)
            lows.append(least)
            highs.append(most)
        least, most = np.maximum(*lows), np.maximum(*highs)
        if not self.subject.rounding.exact:
            # How far rounding may move it off the maximum.
            within = [self.passed[i].off for i in found.within]
            room = sum((part for part in within if part is not None), off) + SMALLEST
            room = room + FEW * (np.abs(least) + np.abs(most) + room) + TINY
            least, most = least - room, most + room
        return np.maximum(low, least), np.minimum(high, most)


def _kept(values: np.ndarray) -> np.ndarray:
    """Where all numbers of a set are small enough not to overflow, [n]."""
    return np.all(values.reshape(len(values), -1) <= LARGEST, 1)
