"""From a graph and pre-activation bounds to the network on one ball, by substitution."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from robustra_tf.evidence.flat import AffineMap
from robustra_tf.exact.restriction import Restriction, normalised, with_intervals
from robustra_tf.graph.graph import Structure
from robustra_tf.graph.ops import Add, Input, Relu
from robustra_tf.intake.deadline import check

# By how much: rows of their own cost the simplex method more than entries in rows that it has.
_DENSER = 2.0

Bounds = Mapping[int, tuple[np.ndarray, np.ndarray]]


class Form(NamedTuple):
    """How a network is restricted.

    Attributes:
      sparse: whether pre-activations get names of their own where that keeps matrices sparse; else
        every unit is an unstable ReLU.
      cut: whether the ReLUs' bounds are cut to what intervals give of what is left.
    """

    sparse: bool = True
    cut: bool = True


class _Expression(NamedTuple):
    """A node's value as `matrix u + constant`: one row for each of its neurons, in their order.

    A neuron that is zero on the ball has an empty row and the constant 0. One that nothing reads
    has an empty row and the constant NaN, so that reading it all the same cannot stay hidden.
    """

    matrix: sp.csr_array
    constant: np.ndarray


class _Units(NamedTuple):
    """A group of units: rows over the pixels and the units before, as in a `Restriction`."""

    matrix: sp.csr_array
    constant: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    relu: bool
    node: int
    neuron: np.ndarray


def restrict(
    structure: Structure,
    maps: Mapping[int, AffineMap],
    low: np.ndarray,
    high: np.ndarray,
    bounds: Bounds,
    *,
    form: Form = Form(),
    deadline: float = math.inf,
) -> Restriction:
    """The network where pixels keep to [low, high] and pre-activations to their bounds.

    Args:
      structure: the network.
      maps: of its affine nodes, as `affine_maps` gives them.
      low, high: [n] intervals of the pixels.
      bounds: for each ReLU node, sound (lower, upper) of its pre-activations, flattened.
      form: of what is left.
      deadline: of `time.monotonic`.

    Raises:
      LateError: it passed.
    """
    walk = _Walk(structure, maps, bounds, form.sparse)
    for index in range(len(structure.nodes)):
        check(deadline)
        walk.visit(index)
    groups, columns = walk.groups, walk.columns
    counts = [len(group.constant) for group in groups]
    ends = np.cumsum([0, *counts])
    empty = np.zeros(0)
    rows = [_widened(group.matrix, columns) for group in groups]
    logits = walk.found[-1]
    return normalised(
        with_intervals(
            Restriction(
                low=low,
                high=high,
                weights=sp.csr_array(sp.vstack(rows)) if rows else sp.csr_array((0, columns)),
                offset=np.concatenate([empty, *(group.constant for group in groups)]),
                logit_weights=_widened(logits.matrix, columns),
                logit_offset=logits.constant,
                relu=np.repeat(np.array([group.relu for group in groups], bool), counts),
                lower=np.concatenate([empty, *(group.lower for group in groups)]),
                upper=np.concatenate([empty, *(group.upper for group in groups)]),
                scale=np.ones(ends[-1]),
                node=np.repeat(np.array([group.node for group in groups], int), counts),
                neuron=np.concatenate([empty, *(g.neuron for g in groups)]).astype(int),
                groups=tuple(slice(int(a), int(b)) for a, b in itertools.pairwise(ends)),
            ),
            form.cut,
        )
    )


def needed_rows(
    structure: Structure, maps: Mapping[int, AffineMap], bounds: Bounds
) -> list[np.ndarray]:
    """For each node, which of its neurons anything reads on the way to the logits: masks.

    A dead neuron is needed where it is read, by a skip for one; what it would read is not.
    """
    masks = [np.zeros(np.prod(node.op.out_shape, dtype=int), bool) for node in structure.nodes]
    masks[-1][:] = True
    for index in range(len(masks) - 1, 0, -1):
        node = structure.nodes[index]
        if isinstance(node.op, Relu):
            below = masks[index] & ~_dead(bounds[index])
        elif isinstance(node.op, Add):
            below = masks[index]
        else:
            below = np.zeros_like(masks[node.inputs[0]])
            below[maps[index].matrix[np.flatnonzero(masks[index])].indices] = True
        for source in node.inputs:
            masks[source] |= below
    return masks


def _dead(ends: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Which ReLUs are zero everywhere; a bound that is not a number says nothing."""
    return ends[1] <= 0


class _Walk:
    """The graph from the pixels on: each node's value over the pixels and the units so far."""

    def __init__(
        self,
        structure: Structure,
        maps: Mapping[int, AffineMap],
        bounds: Bounds,
        sparse: bool,
    ):
        self.structure, self.maps, self.bounds, self.sparse = structure, maps, bounds, sparse
        self.needed = needed_rows(structure, maps, bounds)
        self.columns = len(self.needed[0])
        self.found: list[_Expression] = []
        self.groups: list[_Units] = []

    def visit(self, index: int) -> None:
        node = self.structure.nodes[index]
        if isinstance(node.op, Input):
            pixels = _Expression(sp.eye_array(self.columns, format="csr"), np.zeros(self.columns))
            self.found.append(_chosen(pixels, self.needed[index]))
        elif isinstance(node.op, Relu):
            self._relu(index, node.inputs[0])
        elif isinstance(node.op, Add):
            self._add(index, node.inputs)
        else:
            self._affine(index, node.inputs[0])

    def _value(self, index: int) -> _Expression:
        """The node's value, its matrix with a column for every unit so far."""
        matrix, constant = self.found[index]
        return _Expression(_widened(matrix, self.columns), constant)

    def _add(self, index: int, sources: tuple[int, ...]) -> None:
        matrix, constant = self._value(sources[0])
        for source in sources[1:]:
            branch = self._value(source)
            matrix, constant = matrix + branch.matrix, constant + branch.constant
        total = _Expression(sp.csr_array(matrix), constant)
        self.found.append(_chosen(total, self.needed[index]))

    def _affine(self, index: int, source: int) -> None:
        needed = np.flatnonzero(self.needed[index])
        own, offset = self.maps[index].matrix[needed], self.maps[index].offset[needed]
        below = self._value(source)
        matrix = sp.csr_array(own @ below.matrix)
        # Affine maps are multiplied out as long as that does not make them much denser: beyond
        # it, the rows that are more than one variable get a name of their own.
        entries = np.diff(below.matrix.indptr)
        compound = np.flatnonzero(entries > 1)
        named = entries[compound].sum() + len(compound) + (entries[own.indices] > 0).sum()
        if self.sparse and matrix.nnz > _DENSER * named:
            # Whatever else reads the source may as well read it by its names.
            below = self.found[source] = self._named(below, compound, source)
            matrix = sp.csr_array(own @ below.matrix)
        size = len(self.needed[index])
        constant = np.full(size, np.nan)
        constant[needed] = own @ below.constant + offset
        self.found.append(_Expression(_spread(matrix, needed, size), constant))

    def _named(self, below: _Expression, compound: np.ndarray, source: int) -> _Expression:
        """The value of `source`, its rows `compound` as units of their own."""
        low = np.full(len(compound), -np.inf)
        high = np.full(len(compound), np.inf)
        if isinstance(self.structure.nodes[source].op, Relu):
            # Compound rows behind a ReLU are active neurons.
            low, high = (end[compound] for end in self.bounds[source])
        matrix, constant = below.matrix[compound], below.constant[compound]
        return self._with_units(below, _Units(matrix, constant, low, high, False, source, compound))

    def _relu(self, index: int, source: int) -> None:
        needed, below = self.needed[index], self._value(source)
        lower, upper = self.bounds[index]
        dead = needed & _dead(self.bounds[index])
        # A ReLU behind a ReLU changes nothing.
        positive = isinstance(self.structure.nodes[source].op, Relu)
        loose = np.flatnonzero(needed & ~dead & ~(lower >= 0) & (not positive))
        units = _Units(
            below.matrix[loose],
            below.constant[loose],
            lower[loose],
            upper[loose],
            True,
            index,
            loose,
        )
        value = _chosen(below, needed & ~dead)
        value.constant[dead] = 0.0
        self.found.append(self._with_units(value, units))

    def _with_units(self, expression: _Expression, units: _Units) -> _Expression:
        """Adds a group of units, which stand for the expression's rows `units.neuron`."""
        rows, count = units.neuron, len(units.neuron)
        if not count:
            return expression
        columns = self.columns + np.arange(count)
        self.groups.append(units)
        self.columns += count
        others = np.ones(len(expression.constant), bool)
        others[rows] = False
        matrix, constant = _chosen(expression, others)
        constant[rows] = 0.0
        own = sp.coo_array((np.ones(count), (rows, columns)), (len(others), self.columns))
        return _Expression(sp.csr_array(_widened(matrix, self.columns) + own), constant)


def _widened(matrix: sp.csr_array, columns: int) -> sp.csr_array:
    """The matrix with empty columns behind its own; it shares the entries."""
    entries = (matrix.data, matrix.indices, matrix.indptr)
    return sp.csr_array(entries, shape=(matrix.shape[0], columns))


def _chosen(expression: _Expression, rows: np.ndarray) -> _Expression:
    """The expression where the mask `rows` says so; its other rows are not to be read."""
    constant = np.where(rows, expression.constant, np.nan)
    if rows.all():
        return _Expression(expression.matrix, constant)
    numbers = np.flatnonzero(rows)
    return _Expression(_spread(expression.matrix[numbers], numbers, len(rows)), constant)


def _spread(matrix: sp.csr_array, rows: np.ndarray, size: int) -> sp.csr_array:
    """A matrix of `size` rows, empty but for `rows`, which are those of `matrix`."""
    counts = np.zeros(size + 1, matrix.indptr.dtype)
    counts[rows + 1] = np.diff(matrix.indptr)
    entries = (matrix.data, matrix.indices, np.cumsum(counts, dtype=counts.dtype))
    return sp.csr_array(entries, shape=(size, matrix.shape[1]))
