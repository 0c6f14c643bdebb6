"""Zero padding that one operation reads alone becomes that operation's own."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from robustra_tf.graph.graph import Node, Structure
from robustra_tf.graph.ops import Op
from robustra_tf.graph.spatial import Pad2D, Windowed
from robustra_tf.graph.spread import as_pair


class _Pending(NamedTuple):
    """Zero padding that its one reader is to take over, and the node that it reads."""

    op: Pad2D
    inputs: tuple[int, ...]

    def within(self, reader: Op) -> Op:
        """The reader with this padding inside its own: what `_folds` accepts."""
        if not (isinstance(reader, Windowed | Pad2D) and dataclasses.is_dataclass(reader)):
            raise TypeError(f"expected windows or padding behind padding, got {reader}")
        sides = zip(self.op.padding, reader.padding, strict=True)
        padding = as_pair((a + before, b + after) for (a, b), (before, after) in sides)
        return dataclasses.replace(reader, shape=self.op.shape, padding=padding)


def folded(nodes: list[Node]) -> tuple[tuple[Node, ...], dict[int, int]]:
    """Fold zero padding into the convolution, pooling or padding that alone reads it.

    Returns:
      The nodes that are left, and the new index of each of them by its old one.
    """
    consumers = Structure(tuple(nodes)).consumers
    kept: list[Node] = []
    moved: dict[int, int] = {}
    pending: dict[int, _Pending] = {}
    for index, node in enumerate(nodes):
        source = pending.get(node.inputs[0]) if node.inputs else None
        if source is not None:
            node = dataclasses.replace(node, op=source.within(node.op), inputs=source.inputs)
        if isinstance(node.op, Pad2D) and _folds(nodes, consumers[index]):
            pending[index] = _Pending(node.op, node.inputs)
            continue
        moved[index] = len(kept)
        kept.append(dataclasses.replace(node, inputs=tuple(moved[i] for i in node.inputs)))
    return tuple(kept), moved


def _folds(nodes: list[Node], consumers: tuple[int, ...]) -> bool:
    return len(consumers) == 1 and isinstance(nodes[consumers[0]].op, Windowed | Pad2D)
