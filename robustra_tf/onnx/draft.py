"""A graph of ONNX as it is written: nodes, weights, and where each Keras number lies."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from robustra_tf.onnx.layout import Shape, crops, positions, turn
from robustra_tf.onnx.packages import required

Sides = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Placed:
    """A Keras tensor as a value of ONNX, the batch left out.

    Attributes:
      name: of the value.
      shape: of the value.
      index: in the Keras tensor's shape, positions in the value.
      pads: zeros around an image, of its rows and columns, that a window behind it is to add.
      scale: `s` and `t`, of the Keras tensor's shape, where that is `s v + t` of the value: weights
        behind it are to take them in.
    """

    name: str
    shape: Shape
    index: np.ndarray
    pads: Sides = ((0, 0), (0, 0))
    scale: tuple[np.ndarray, np.ndarray] | None = None

    def spread(self, constants: Any) -> np.ndarray:
        """Constants that broadcast to the Keras tensor, for the value: [1, ...], broadcasting."""
        full = np.empty(self.index.size)
        full[self.index.ravel()] = np.broadcast_to(constants, self.index.shape).ravel()
        full = full.reshape(self.shape)
        for axis in range(full.ndim):
            first = full.take([0], axis)
            full = first if (full == first).all() else full
        return full[None].astype(np.float32)


class Draft:
    """Nodes and weights in their order, named after layers."""

    def __init__(self):
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._names: set[str] = set()

    def named(self, wish: str) -> str:
        """A name that nothing has yet."""
        name, count = wish, 0
        while name in self._names:
            count += 1
            name = f"{wish}_{count}"
        self._names.add(name)
        return name

    def constant(self, wish: str, values: np.ndarray) -> str:
        """A weight; its name."""
        name = self.named(wish)
        array = np.ascontiguousarray(values)
        self.weights.append(required("onnx").numpy_helper.from_array(array, name))
        return name

    def node(self, kind: str, inputs: list[str], wish: str, attributes: Mapping | None = None):
        """A node of one output; the name of that."""
        name = self.named(wish)
        make = required("onnx").helper.make_node
        self.nodes.append(make(kind, inputs, [name], name=name, **(attributes or {})))
        return name

    def arranged(self, value: Placed, wanted: np.ndarray) -> str:
        """The numbers of a Keras tensor at positions, as a value of the positions' shape."""
        value = self.padded(value)
        own = value.index.ravel()[wanted]
        if np.array_equal(own.ravel(), np.arange(np.prod(value.shape))):
            return self.reshaped(value.name, value.shape, wanted.shape)
        found = turn(own, value.shape) if own.size == np.prod(value.shape) else None
        if found is not None:
            name = self.reshaped(value.name, value.shape, found.before)
            order = {"perm": [0, *(axis + 1 for axis in found.order)]}
            shape = tuple(found.before[axis] for axis in found.order)
            name = self.node("Transpose", [name], f"{value.name}_turned", order)
            return self.reshaped(name, shape, wanted.shape)
        cut = self._cut(value, own)
        if cut is not None:
            return self.arranged(*cut)
        flat = self.reshaped(value.name, value.shape, (value.index.size,))
        chosen = self.constant(f"{value.name}_places", own.ravel())
        name = self.node("Gather", [flat, chosen], f"{value.name}_chosen", {"axis": 1})
        return self.reshaped(name, (own.size,), wanted.shape)

    def _cut(self, value: Placed, own: np.ndarray) -> tuple[Placed, np.ndarray] | None:
        """A slice that has the numbers at some positions alone, and their positions in it."""
        used, back = np.unique(own.ravel(), return_inverse=True)
        found = crops(used, value.shape)
        if not found or len(used) != own.size:
            return None
        shape = list(value.shape)
        numbers = [
            (c.start, c.start + (c.count - 1) * c.step + 1, c.axis + 1, c.step) for c in found
        ]
        for crop in found:
            shape[crop.axis] = crop.count
        names = [
            self.constant(f"{value.name}_{word}", np.array(column, np.int64))
            for word, column in zip(
                ("starts", "ends", "axes", "steps"), zip(*numbers, strict=True), strict=True
            )
        ]
        name = self.node("Slice", [value.name, *names], f"{value.name}_cut")
        table = positions(tuple(shape))
        return Placed(name, tuple(shape), table), back.reshape(own.shape)

    def reshaped(self, name: str, before: Shape, after: Shape) -> str:
        """The same numbers in another shape."""
        if tuple(before) == tuple(after):
            return name
        if len(after) == 1:
            return self.node("Flatten", [name], f"{name}_flat", {"axis": 1})
        shape = self.constant(f"{name}_shape", np.array([-1, *after], np.int64))
        return self.node("Reshape", [name, shape], f"{name}_reshaped")

    def padded(self, value: Placed) -> Placed:
        """With its zeros, where no window took them."""
        if not any(map(any, value.pads)):
            return value
        (top, bottom), (left, right) = value.pads
        plain = dataclasses.replace(value, pads=((0, 0), (0, 0)))
        name = self.arranged(plain, channels_first(value.index.shape))
        pads = np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)
        name = self.node("Pad", [name, self.constant(f"{name}_pads", pads)], f"{name}_padded")
        height, width, channels = value.index.shape
        return image(name, (height + top + bottom, width + left + right, channels))


def channels_first(shape: Shape) -> np.ndarray:
    """Positions of a Keras tensor in ONNX's order: its last axis first."""
    return np.moveaxis(positions(tuple(shape)), -1, 0)


def image(name: str, shape: Shape) -> Placed:
    """A value with its channels first, of a Keras tensor with its channels last."""
    turned = (shape[-1], *shape[:-1])
    return Placed(name, turned, np.moveaxis(positions(turned), 0, -1))


def plain(name: str, shape: Shape) -> Placed:
    """A value in the order of its Keras tensor."""
    return Placed(name, tuple(shape), positions(tuple(shape)))
