"""Maxima as ReLUs, `max(a, b) = b + relu(a - b)`, and their recognition in a graph.

Every method that knows ReLUs knows maxima so, and to branch on `a - b` is to branch on which of the
two is the larger one. Intervals alone would lose by it: to them the two places of `b` are two
numbers. `maximum` finds such sums again, by what they compute and not by what they were made of.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from robustra_tf.graph.lowering import Draft, Value
from robustra_tf.graph.ops import Add, Relu, Scale
from robustra_tf.graph.selection import Pick

if TYPE_CHECKING:
    from robustra_tf.graph.graph import Node


def larger(draft: Draft, first: Value, second: Value) -> Value:
    """`max(first, second)`, entry by entry."""
    difference = draft.sum(first, draft.scale(second, -1.0))
    return draft.sum(draft.relu(difference), second)


def smaller(draft: Draft, first: Value, second: Value) -> Value:
    """`min(first, second) = -max(-first, -second)`, entry by entry."""
    return draft.scale(larger(draft, draft.scale(first, -1.0), draft.scale(second, -1.0)), -1.0)


def pooled(
    draft: Draft,
    value: Value,
    size: tuple[int, int],
    strides: tuple[int, int],
    padding: Sequence[tuple[int, int]],
) -> Value:
    """The maximum of every window of an image [h, w, c]: of rows, then of columns.

    The windows of a level are halved until one entry is left, all at once. What would lie beyond
    the image is the entry at its edge again, which is in the window as well.
    """
    for axis in (0, 1):
        length = draft.shape(value)[axis]
        before, after = padding[axis]
        places = np.clip(np.arange(-before, length + after), 0, length - 1)
        value = draft.take(value, axis, places)
        value = _halved(draft, value, axis, size[axis], strides[axis])
    return value


def _halved(draft: Draft, value: Value, axis: int, size: int, stride: int) -> Value:
    """The maximum over windows along one axis."""
    one = (1, 1)
    window, strides = ((n, 1) if axis == 0 else (1, n) for n in (size, stride))
    if size == 1:
        if stride == 1:
            return value
        return draft.add(Pick(draft.shape(value), one, strides, (0,)), value)
    slots, entries = 1, size
    while entries > 1:
        # The last one of an odd number stands against itself.
        first = tuple(range(0, entries, 2))
        second = tuple(min(i + 1, entries - 1) for i in first)
        other = Pick(draft.shape(value), window, strides, second, slots=slots)
        difference = dataclasses.replace(other, plus=first, minus=second)
        above = draft.relu(draft.add(difference, value))
        value = draft.sum(above, draft.add(other, value))
        slots = entries = len(first)
        window = strides = one
    return value


class Side(NamedTuple):
    """One of two numbers that a maximum is of: a node's output, or what `pick` takes of it."""

    node: int
    pick: Pick | None


class Maximum(NamedTuple):
    """A sum that is `max(first, second)`, and the nodes beside its ReLU that it is made of."""

    first: Side
    second: Side
    within: tuple[int, ...]


def maximum(nodes: Sequence[Node], index: int) -> Maximum | None:
    """What a node is the maximum of: `relu(a - b) + b`; None of any other node."""
    node = nodes[index]
    if not isinstance(node.op, Add) or node.op.count != 2:
        return None
    for relu, base in (node.inputs, node.inputs[::-1]):
        if isinstance(nodes[relu].op, Relu):
            found = _difference(nodes, nodes[relu].inputs[0], base)
            if found is not None:
                return found
    return None


def _difference(nodes: Sequence[Node], index: int, base: int) -> Maximum | None:
    """`max(a, b)` where node `index` is `a - b` and `base` is `b`."""
    node, other = nodes[index], nodes[base]
    if isinstance(node.op, Pick) and isinstance(other.op, Pick) and node.inputs == other.inputs:
        first = dataclasses.replace(node.op, minus=())
        if dataclasses.replace(first, plus=node.op.minus) == other.op:
            (source,) = node.inputs
            return Maximum(Side(source, first), Side(source, other.op), (index, base))
    if isinstance(node.op, Add) and node.op.count == 2:
        for first, second in (node.inputs, node.inputs[::-1]):
            if _negated(nodes[second]) and nodes[second].inputs == (base,):
                return Maximum(Side(first, None), Side(base, None), (index, second))
    return None


def _negated(node: Node) -> bool:
    op = node.op
    return isinstance(op, Scale) and op.kind == "constant" and op.constants == (-1.0, 0.0)
