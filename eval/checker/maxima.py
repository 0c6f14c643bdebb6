"""Sums that are maxima, `b + relu(a - b)`: seen in the operations, and bounded as what they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .moves import Pick
from .network import Node
from .operations import Add, Scale
from .rounding import FEW, SMALLEST, TINY
from .state import State


class Maximum(NamedTuple):
    """What a sum is the maximum of, and the nodes whose rounding takes part beside its own.

    Attributes:
      sides: a node and what is picked of it, or None for all of it; two of these.
      within: the nodes.
    """

    sides: tuple[tuple[int, Pick | None], ...]
    within: tuple[int, ...]


def maximum(nodes: Sequence[Node], index: int) -> Maximum | None:
    """What a node is the maximum of, or None."""
    node = nodes[index]
    if not isinstance(node.op, Add) or len(node.inputs) != 2:
        return None
    for relu, base in (node.inputs, node.inputs[::-1]):
        if nodes[relu].op == "relu":
            below = nodes[relu].inputs[0]
            found = _picked(nodes, below, base) or _subtracted(nodes, below, base)
            if found is not None:
                return found
    return None


def _picked(nodes: Sequence[Node], below: int, base: int) -> Maximum | None:
    """Entries of one node less other entries, and these."""
    difference, other = nodes[below], nodes[base]
    if not (isinstance(difference.op, Pick) and isinstance(other.op, Pick)):
        return None
    first, second = difference.op.only(difference.op.plus), difference.op.only(difference.op.minus)
    if difference.inputs != other.inputs or second is None or not second.same(other.op):
        return None
    (source,) = other.inputs
    return Maximum(((source, first), (source, second)), (below, base))


def _subtracted(nodes: Sequence[Node], below: int, base: int) -> Maximum | None:
    """A node plus -1 times another one, and that one."""
    node = nodes[below]
    if not isinstance(node.op, Add) or len(node.inputs) != 2:
        return None
    for first, second in (node.inputs, node.inputs[::-1]):
        op = nodes[second].op
        if isinstance(op, Scale) and nodes[second].inputs == (base,):
            plain = not np.any(op.mean) and not np.any(op.shift)
            if plain and np.all(np.asarray(op.scale) == -1.0):
                return Maximum(((first, None), (base, None)), (below, second))
    return None


def ends(found: Maximum, states: Sequence[State]) -> tuple[np.ndarray, np.ndarray]:
    """The greater of the lower ends of both sides, and of the upper ends."""
    lows, highs = [], []
    for node, pick in found.sides:
        centre, width = states[node].centre, states[node].width
        if pick is not None:
            centre, width = pick.linear(centre), pick.linear(width)
        width = width + FEW * (np.abs(centre) + width)
        lows.append(centre - width)
        highs.append(centre + width)
    return np.maximum(*lows), np.maximum(*highs)


def cut(state: State, found: Maximum, states: Sequence[State], room: np.ndarray | float) -> State:
    """A maximum's state, no wider than the maxima of the ends of both sides leave it.

    Args:
      state: by the sum.
      found: what it is of.
      states: of all nodes before it.
      room: how far rounding may move it off the maximum.
    """
    low, high = ends(found, states)
    above, below = high - state.centre, state.centre - low
    reach = np.maximum(above, below) + room + SMALLEST
    reach = reach + FEW * (np.abs(state.centre) + np.abs(reach)) + TINY
    return state._replace(width=np.minimum(state.width, reach))
