"""Nodes that move numbers: the same function for constants and for tables of positions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from robustra_tf.onnx.node import Node, Operand, handles
from robustra_tf.onnx.values import Value, check_size

Move = Callable[[Node, np.ndarray], np.ndarray | list[np.ndarray]]


def _moves(*kinds: str) -> Callable[[Move], Move]:
    """Registers a function of a node and an array for constants and values."""

    def register(move: Move) -> Move:
        def handler(node: Node) -> Operand | list[Operand]:
            given = node.operand(0)
            if not isinstance(given, Value):
                moved = move(node, node.given(0))
                return [*moved] if isinstance(moved, list) else moved
            found = move(node, given.index)
            if isinstance(found, list):
                return [dataclasses.replace(given, index=each) for each in found]
            return dataclasses.replace(given, index=found)

        handles(*kinds)(handler)
        return move

    return register


@_moves("Identity")
def _identity(node: Node, array: np.ndarray) -> np.ndarray:
    return array


@_moves("Dropout")
def _dropout(node: Node, array: np.ndarray) -> np.ndarray:
    training = node.constant(2)
    if training is not None and training.any():
        raise node.refused("expected training_mode false, got true")
    if node.outputs > 1:
        raise node.refused("expected one output, got the mask too")
    return array


@_moves("Cast")
def _cast(node: Node, array: np.ndarray) -> np.ndarray:
    kinds = {1: "float32", 6: "int32", 7: "int64"}
    if isinstance(node.operand(0), Value):
        node.expect("to", 1)
        return array
    if node.attributes["to"] not in kinds:
        raise node.refused("expected float32 or integers")
    return array.astype(kinds[node.attributes["to"]])


@_moves("Reshape")
def _reshape(node: Node, array: np.ndarray) -> np.ndarray:
    wanted = node.whole("shape", 1)
    if wanted is None:
        raise node.refused("expected a constant shape")
    if not node.attributes.get("allowzero", 0):
        wanted = [array.shape[axis] if n == 0 else n for axis, n in enumerate(wanted)]
    return array.reshape(wanted)


@_moves("Flatten")
def _flatten(node: Node, array: np.ndarray) -> np.ndarray:
    axis = node.attributes.get("axis", 1)
    axis += array.ndim if axis < 0 else 0
    return array.reshape(int(np.prod(array.shape[:axis])), -1)


@_moves("Transpose")
def _transpose(node: Node, array: np.ndarray) -> np.ndarray:
    return array.transpose(node.attributes.get("perm"))


@_moves("Squeeze")
def _squeeze(node: Node, array: np.ndarray) -> np.ndarray:
    axes = node.whole("axes", 1)
    return array.squeeze(None if axes is None else tuple(axes))


@_moves("Unsqueeze")
def _unsqueeze(node: Node, array: np.ndarray) -> np.ndarray:
    return np.expand_dims(array, tuple(node.wholes("axes", 1)))


@_moves("Slice")
def _slice(node: Node, array: np.ndarray) -> np.ndarray:
    starts, ends = node.wholes("starts", 1), node.wholes("ends", 2)
    axes, steps = node.whole("axes", 3), node.whole("steps", 4)
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    chosen = [slice(None)] * array.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = array.shape[axis]
        # ONNX clamps ends. Going back to before the first entry has no number in Python.
        low = end + size if end < 0 else end
        first = max(start + size, 0) if start < 0 else start
        chosen[axis] = slice(first, None if step < 0 and low < 0 else end, step)
    found = array[tuple(chosen)]
    if not found.size:
        raise node.refused(f"expected entries to be left of {array.shape}, got none")
    return found


@_moves("Split")
def _split(node: Node, array: np.ndarray) -> list[np.ndarray]:
    axis, sizes = node.attributes.get("axis", 0), node.whole("split", 1)
    size = array.shape[axis]
    if sizes is None:
        count = node.attributes.get("num_outputs", node.outputs)
        most = -(-size // count)
        sizes = [min(most, size - most * i) for i in range(count)]
    if sum(sizes) != size or min(sizes) < 1 or len(sizes) != node.outputs:
        raise node.refused(f"expected {node.outputs} parts of {size} together, got {sizes}")
    return np.split(array, np.cumsum(sizes)[:-1], axis)


@_moves("Gather")
def _gather(node: Node, array: np.ndarray) -> np.ndarray:
    axis, chosen = node.attributes.get("axis", 0), node.given(1)
    shape = array.shape
    check_size((array.size // max(shape[axis], 1), chosen.size))
    return np.take(array, chosen, axis)


@handles("Shape")
def _shape(node: Node) -> np.ndarray:
    given = node.operand(0)
    shape = given.index.shape if isinstance(given, Value) else node.given(0).shape
    return np.array(shape, np.int64)[node.attributes.get("start", 0) : node.attributes.get("end")]


@handles("Constant")
def _constant(node: Node) -> np.ndarray:
    if len(node.attributes) != 1:
        raise node.refused("expected one attribute")
    ((name, value),) = node.attributes.items()
    kinds = {"value_float": "f4", "value_floats": "f4", "value_int": "i8", "value_ints": "i8"}
    if name == "value":
        return value
    if name not in kinds:
        raise node.refused(f"expected numbers, got {name}")
    return np.array(value, kinds[name])
