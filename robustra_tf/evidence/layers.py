"""The bounds that a proof's steps give, in float64: what a checker derives, but for rounding."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import tensorflow as tf

from robustra_tf.evidence.flat import Flat
from robustra_tf.evidence.region import Region
from robustra_tf.evidence.steps import CROWN, INTERVAL, WK, RowSet, Step
from robustra_tf.graph.ops import Add, Relu

# Relative widening of bounds, far above what float64 loses and far below what matters.
SLACK = 1e-10
# Shares of a matrix's rows up to which it pays to take them out, and of entries that are not zero
# up to which it pays to know that the others are.
_FEW, _SPARSE = 0.7, 0.25
# Numbers of the rows that go backward together.
_NUMBERS = 2**22


#: Rows [q, size], sparse or dense.
Rows = np.ndarray | sp.csr_array
#: Of one ReLU, by its number, its lower slopes where it is unstable: [size] or, row by row,
#: [q, size].
Slopes = Callable[[int], np.ndarray]


class Layers:
    """Bounds `lower[k] <= z <= upper[k]` of every ReLU k's input over one region, by steps.

    At first nothing is known. A step bounds the units of one ReLU and keeps the better ends; it
    rests on the bounds that earlier ReLUs have then.
    """

    def __init__(self, network: Flat, region: Region):
        """Nothing is known yet."""
        self.network, self.region = network, region
        self.nodes = network.structure.nodes
        self.number = {node: k for k, node in enumerate(network.structure.relus)}
        self.lower = [np.full(size, -np.inf) for size in network.sizes]
        self.upper = [np.full(size, np.inf) for size in network.sizes]
        # Of every node its interval, as far as they are up to date.
        self._ends = [(region.low, region.high)]

    def copy(self) -> Layers:
        """The same bounds, to go on from in another way."""
        other = Layers(self.network, self.region)
        other.lower = [end.copy() for end in self.lower]
        other.upper = [end.copy() for end in self.upper]
        return other

    def take(self, step: Step) -> None:
        """Does a step."""
        relu, how = step
        if how == INTERVAL:
            (below,) = self.nodes[self.network.structure.relus[relu]].inputs
            self._keep(relu, slice(None), *self._interval(below))
        elif isinstance(how, RowSet):
            self._rows(relu, how)
        else:
            units = np.flatnonzero(self.unstable(relu))
            ends = np.ones(len(units)), -np.ones(len(units))
            if how == WK:
                # One slope below and above: a row that is negated goes the same way.
                low, high = self._ended(relu, units, ends[0], lambda part: self.slopes(how), True)
            else:
                both = np.tile(units, 2), np.concatenate(ends)
                (found,) = self._ended(relu, *both, lambda part: self.slopes(how))
                low, high = np.split(found, 2)
            self._keep(relu, units, low, -high)

    @property
    def largest(self) -> float:
        """What a logit's absolute value is at most, by intervals."""
        return float(np.max(np.abs(self._interval(len(self.nodes) - 1)), initial=0.0))

    def unstable(self, relu: int) -> np.ndarray:
        """Which units are on either side, boolean."""
        return (self.lower[relu] < 0) & (self.upper[relu] > 0)

    def slopes(self, rule: str) -> Slopes:
        """The lower slopes of a rule, by a ReLU's number."""
        if rule == WK:
            return lambda k: self._chord(k)[0]
        return lambda k: (self.upper[k] > -self.lower[k]).astype(float)

    def margins(self, rule: str, rows: np.ndarray, offset: np.ndarray) -> np.ndarray:
        """Lower bounds [k] of `-(c . f + d)` for `c` [k, outputs] and `d` [k]; nothing is -inf."""
        slopes = None if rule == INTERVAL else self.slopes(rule)
        found = self._bound(len(self.nodes) - 1, -rows, slopes)[0] - offset
        return np.where(np.isfinite(found), found, -np.inf)

    def _keep(self, relu: int, units: np.ndarray | slice, lower, upper) -> None:
        """The better ends, what is found a hair wider: others round otherwise."""
        size = np.maximum(np.abs(lower), np.abs(upper))
        hair = SLACK * (size + np.max(size[np.isfinite(size)], initial=0.0))
        for ends, found, better in (
            (self.lower[relu], lower - hair, np.fmax),
            (self.upper[relu], upper + hair, np.fmin),
        ):
            ends[units] = better(ends[units], found)
        del self._ends[self.network.structure.relus[relu] :]

    def _interval(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The interval of a node, from the present bounds of the ReLUs before."""
        for at in range(len(self._ends), index + 1):
            node, below = self.nodes[at], [self._ends[i] for i in self.nodes[at].inputs]
            if isinstance(node.op, Relu):
                low, high = self.lower[self.number[at]], self.upper[self.number[at]]
                self._ends.append((np.maximum(low, 0.0), np.maximum(high, 0.0)))
                continue
            own = self.network.maps[at]
            centre = sum(0.5 * (low + high) for low, high in below)
            reach = sum(0.5 * (high - low) for low, high in below)
            middle = own.matrix @ centre + own.offset
            width = self.network.absolute[at] @ reach
            self._ends.append(self._cut(at, middle - width, middle + width))
        return self._ends[index]

    def _cut(self, at: int, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """An interval cut to the maxima of the ends, where the node is a maximum of two numbers."""
        maximum = self.network.structure.maxima.get(at)
        if maximum is None:
            return low, high
        sides = []
        for side in (maximum.first, maximum.second):
            ends = self._ends[side.node]
            if side.pick is not None:
                shape = (1, *self.nodes[side.node].op.out_shape)
                ends = [side.pick.linear(tf.constant(e.reshape(shape))).numpy()[0] for e in ends]
            sides.append([end.ravel() for end in ends])
        (first_low, first_high), (second_low, second_high) = sides
        low = np.maximum(low, np.maximum(first_low, second_low))
        return low, np.minimum(high, np.maximum(first_high, second_high))

    def _rows(self, relu: int, rows: RowSet) -> None:
        """A step of rows with slopes of their own.

        Raises:
          ValueError: they lean on margins, which are a tree's.
        """
        if rows.weight is not None:
            raise ValueError("rows: expected none that lean on margins")

        def slopes(part: slice) -> Slopes:
            given = rows.alpha[part].astype(float)

            def of(k: int) -> np.ndarray:
                start, stop = self.network.starts[k : k + 2]
                own = slice(*np.searchsorted(rows.unit, [start, stop]))
                found = np.repeat(self.slopes(CROWN)(k)[None], len(given), axis=0)
                found[:, rows.unit[own] - start] = given[:, own]
                return found

            return of

        (found,) = self._ended(relu, rows.neuron, rows.end, slopes)
        low, high = (np.full(self.network.sizes[relu], end) for end in (-np.inf, np.inf))
        lower = rows.end > 0
        np.maximum.at(low, rows.neuron[lower], found[lower])
        np.minimum.at(high, rows.neuron[~lower], -found[~lower])
        units = np.unique(rows.neuron)
        self._keep(relu, units, low[units], high[units])

    def _ended(
        self,
        relu: int,
        neuron: np.ndarray,
        end: np.ndarray,
        slopes: Callable[[slice], Slopes],
        mirrored: bool = False,
    ) -> np.ndarray:
        """Lower bounds of `end z` for units of a ReLU, and of its negative: as `_bound`."""
        below = self.nodes[self.network.structure.relus[relu]].inputs[0]
        width = int(np.prod(self.nodes[below].op.out_shape, dtype=int))
        widest = max(int(np.prod(node.op.out_shape)) for node in self.nodes)
        size, found = max(1, _NUMBERS // widest), [np.zeros((1 + mirrored, 0))]
        for start in range(0, len(neuron), size):
            part = slice(start, start + size)
            count = len(neuron[part])
            entries = (end[part].astype(float), neuron[part], np.arange(count + 1))
            rows = sp.csr_array(entries, shape=(count, width))
            found.append(self._bound(below, rows, slopes(part), mirrored))
        return np.concatenate(found, axis=1)

    def _chord(self, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of ReLU k the upper lines' slopes and intercepts, and where it is unstable."""
        lower, upper = self.lower[k], self.upper[k]
        free = self.unstable(k)
        with np.errstate(invalid="ignore"):
            slope = np.where(free, upper / np.where(free, upper - lower, 1.0), lower >= 0)
            return slope, np.where(free, -slope * lower, 0.0), free

    def _bound(
        self, index: int, rows: Rows, slopes: Slopes | None, mirrored: bool = False
    ) -> np.ndarray:
        """Lower bounds of rows [q, size] of a node's output; without slopes by intervals.

        What reaches a ReLU without slopes is bounded there by its interval.

        Returns:
          [1, q]; where `mirrored`, of which only slopes of Wong and Kolter allow, [2, q], those of
          the negated rows behind.
        """
        constant, pending = np.zeros((1 + mirrored, rows.shape[0])), {index: rows}
        with np.errstate(invalid="ignore", over="ignore"):
            for at in range(index, 0, -1):
                here, node = pending.pop(at, None), self.nodes[at]
                if here is None:
                    continue
                if isinstance(node.op, Relu):
                    here = self._past(self.number[at], here, slopes, constant)
                    if here is None:
                        continue
                elif not isinstance(node.op, Add):
                    own = self.network.maps[at]
                    value = here @ own.offset
                    constant[0] += value
                    constant[1:] -= value
                    here = _product(here, own.matrix)
                for source in node.inputs:
                    pending[source] = pending[source] + here if source in pending else here
            if 0 in pending:
                constant += self.region.least(_dense(pending[0]), mirrored)
        return constant

    def _past(self, k: int, rows: Rows, slopes: Slopes | None, constant: np.ndarray) -> Rows | None:
        """The rows on the input of ReLU k of those behind it, None of intervals.

        What they are charged is added to `constant` [1 or 2, q].
        """
        if isinstance(rows, np.ndarray):
            positive = np.maximum(rows, 0.0)
        else:
            positive = sp.csr_array(rows.maximum(0.0))
        negative = rows - positive
        if slopes is None:
            high = negative @ np.maximum(self.upper[k], 0.0)
            constant[0] += positive @ np.maximum(self.lower[k], 0.0) + high
            return None
        slope, intercept, free = self._chord(k)
        constant[0] += negative @ intercept
        if len(constant) > 1:
            constant[1] -= positive @ intercept
            return rows * slope if isinstance(rows, np.ndarray) else _scaled(rows, slope)
        lower = np.where(free, slopes(k), slope)
        if isinstance(positive, np.ndarray):
            return positive * lower + negative * slope
        passed = _scaled(positive, lower) + _scaled(negative, slope)
        return sp.csr_array(passed)


def _scaled(rows: sp.csr_array, slope: np.ndarray) -> sp.csr_array:
    """Sparse rows times slopes, [size] or row by row; what comes to nothing is left out."""
    if slope.ndim == 1:
        scale = slope[rows.indices]
    else:
        scale = slope[np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr)), rows.indices]
    found = sp.csr_array((rows.data * scale, rows.indices, rows.indptr), rows.shape, copy=True)
    found.eliminate_zeros()
    return found


def _product(rows: Rows, matrix: sp.csr_array) -> Rows:
    """`rows matrix`, without the entries that are zero in all rows."""
    if not isinstance(rows, np.ndarray):
        found = sp.csr_array(rows @ matrix)
        return found if found.nnz < _SPARSE * math.prod(found.shape) else found.toarray()
    used = np.flatnonzero(rows.any(0))
    if len(used) < _FEW * rows.shape[1]:
        rows, matrix = rows[:, used], matrix[used]
    return (matrix.T @ rows.T).T


def _dense(rows: Rows) -> np.ndarray:
    return rows if isinstance(rows, np.ndarray) else rows.toarray()
