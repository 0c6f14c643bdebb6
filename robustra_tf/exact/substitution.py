"""From a graph and pre-activation bounds to the network on one ball, by substitution."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from robustra_tf.exact.matrices import AffineMap
from robustra_tf.exact.restriction import Restriction, with_intervals
from robustra_tf.graph.graph import Structure
from robustra_tf.graph.ops import Add, Input, Relu

# By how much: rows of their own cost the simplex method more than entries in rows that it has.
_DENSER = 2.0

Bounds = Mapping[int, tuple[np.ndarray, np.ndarray]]


class _Expression(NamedTuple):
    """Some rows of a node's value as `matrix u + constant`; its other rows matter to nothing."""

    matrix: sp.csr_array
    constant: np.ndarray


def restrict(
    structure: Structure,
    maps: Mapping[int, AffineMap],
    low: np.ndarray,
    high: np.ndarray,
    bounds: Bounds,
) -> Restriction:
    """The network where pixels keep to [low, high] and pre-activations to their bounds.

    Args:
      structure: the network.
      maps: of its affine nodes, as `affine_maps` gives them.
      low, high: [n] intervals of the pixels.
      bounds: for each ReLU node, sound (lower, upper) of its pre-activations, flattened.
    """
    walk = _Walk(structure, maps, low, bounds)
    for index in range(len(structure.nodes)):
        walk.visit(index)
    walk.widen(walk.found[-1])
    last = walk.found[-1]
    columns = len(low) + walk.units
    for rows in walk.rows:
        rows.resize((rows.shape[0], columns))
    ends = np.cumsum([0, *(rows.shape[0] for rows in walk.rows)])
    empty = np.zeros(0)
    return with_intervals(
        Restriction(
            low=low,
            high=high,
            weights=sp.csr_array(sp.vstack(walk.rows)) if walk.rows else sp.csr_array((0, columns)),
            offset=np.concatenate([empty, *walk.offsets]),
            logit_weights=last.matrix,
            logit_offset=last.constant,
            relu=np.concatenate([empty, *walk.relu]).astype(bool),
            lower=np.concatenate([empty, *walk.lower]),
            upper=np.concatenate([empty, *walk.upper]),
            node=np.concatenate([empty, *walk.node]).astype(int),
            neuron=np.concatenate([empty, *walk.neuron]).astype(int),
            groups=tuple(slice(int(a), int(b)) for a, b in itertools.pairwise(ends)),
        )
    )


def needed_rows(
    structure: Structure, maps: Mapping[int, AffineMap], bounds: Bounds
) -> list[np.ndarray]:
    """For each node, the rows (row-major numbers) that reach the logits past the dead ReLUs."""
    sizes = [int(np.prod(node.op.out_shape)) for node in structure.nodes]
    masks = [np.zeros(size, bool) for size in sizes]
    masks[-1][:] = True
    for index in range(len(sizes) - 1, 0, -1):
        node = structure.nodes[index]
        if isinstance(node.op, Relu):
            masks[index] &= bounds[index][1] > 0
            below = masks[index]
        elif isinstance(node.op, Add):
            below = masks[index]
        else:
            below = np.zeros(sizes[node.inputs[0]], bool)
            below[maps[index].matrix[np.flatnonzero(masks[index])].indices] = True
        for source in node.inputs:
            masks[source] |= below
    return [np.flatnonzero(mask) for mask in masks]


class _Walk:
    """The graph from the pixels on: each node's value over the pixels and the units so far."""

    def __init__(self, structure, maps, low, bounds):
        self.structure, self.maps, self.bounds = structure, maps, bounds
        self.needed = needed_rows(structure, maps, bounds)
        self.pixels, self.units = len(low), 0
        self.found: list[_Expression] = []
        self.rows: list[sp.csr_array] = []
        self.offsets, self.relu, self.lower, self.upper = [], [], [], []
        self.node, self.neuron = [], []

    def visit(self, index: int) -> None:
        node = self.structure.nodes[index]
        if isinstance(node.op, Input):
            rows = self.needed[index]
            matrix = sp.eye_array(self.pixels, format="csr")[rows]
            self.found.append(_Expression(matrix, np.zeros(len(rows))))
        elif isinstance(node.op, Relu):
            self._relu(index, node.inputs[0])
        elif isinstance(node.op, Add):
            self._add(index, node.inputs)
        else:
            self._affine(index, node.inputs[0])

    def widen(self, expression: _Expression) -> _Expression:
        """The expression, its matrix with a column for every unit so far."""
        matrix = expression.matrix
        matrix.resize((matrix.shape[0], self.pixels + self.units))
        return expression

    def _rows(self, source: int, index: int) -> _Expression:
        """What `index` reads of node `source`: those of its rows that `index` needs itself."""
        found = self.widen(self.found[source])
        if len(self.needed[source]) == len(self.needed[index]):
            return found
        rows = np.searchsorted(self.needed[source], self.needed[index])
        return _Expression(found.matrix[rows], found.constant[rows])

    def _add(self, index: int, sources: tuple[int, ...]) -> None:
        branches = [self._rows(source, index) for source in sources]
        matrix, constant = branches[0]
        for branch in branches[1:]:
            matrix, constant = matrix + branch.matrix, constant + branch.constant
        self.found.append(_Expression(matrix, constant))

    def _affine(self, index: int, source: int) -> None:
        rows, columns = self.needed[index], self.needed[source]
        own = self.maps[index].matrix[rows][:, columns]
        below = self.widen(self.found[source])
        matrix = sp.csr_array(own @ below.matrix)
        # Affine maps are multiplied out as long as that does not make them much denser: beyond
        # it, the rows that are more than one variable get a name of their own.
        compound = np.flatnonzero(np.diff(below.matrix.indptr) > 1)
        named = below.matrix[compound].nnz + len(compound) + own.nnz
        if matrix.nnz > _DENSER * named:
            below = self.found[source] = self._name(below, compound, columns, source)
            matrix = sp.csr_array(own @ below.matrix)
        constant = own @ below.constant + self.maps[index].offset[rows]
        self.found.append(_Expression(matrix, constant))

    def _name(self, below, compound, columns, source) -> _Expression:
        relu = isinstance(self.structure.nodes[source].op, Relu)
        low = np.full(len(compound), -np.inf)
        high = np.full(len(compound), np.inf)
        if relu:
            # Compound rows behind a ReLU are active neurons.
            low, high = (end[columns[compound]] for end in self.bounds[source])
        rows, constant = below.matrix[compound], below.constant[compound]
        units = self._append(rows, constant, low, high, -1, columns[compound], relu=False)
        return self._with_units(below, compound, units)

    def _relu(self, index: int, source: int) -> None:
        matrix, constant = self._rows(source, index)
        rows = self.needed[index]
        lower, upper = (end[rows] for end in self.bounds[index])
        loose = np.flatnonzero(lower < 0)
        units = self._append(
            matrix[loose],
            constant[loose],
            lower[loose],
            upper[loose],
            index,
            rows[loose],
            relu=True,
        )
        self.found.append(self._with_units(_Expression(matrix, constant), loose, units))

    def _append(self, matrix, constant, lower, upper, node, neuron, relu) -> np.ndarray:
        """Adds a group of units; returns their columns."""
        count = len(constant)
        first = self.pixels + self.units
        if count:
            self.rows.append(matrix)
            self.offsets.append(constant)
            self.lower.append(lower)
            self.upper.append(upper)
            self.relu.append(np.full(count, relu))
            self.node.append(np.full(count, node))
            self.neuron.append(neuron)
            self.units += count
        return first + np.arange(count)

    def _with_units(self, expression, rows, units) -> _Expression:
        """The expression with `rows` replaced by the columns `units`."""
        keep = np.ones(len(expression.constant))
        keep[rows] = 0.0
        matrix, constant = expression
        kept = sp.csr_array(sp.diags_array(keep) @ matrix)
        kept.eliminate_zeros()
        kept.resize((kept.shape[0], self.pixels + self.units))
        new = sp.coo_array((np.ones(len(rows)), (rows, units)), kept.shape)
        return _Expression(sp.csr_array(kept + new), constant * keep)
