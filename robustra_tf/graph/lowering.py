"""What the converters of layers write with: a draft of operations; and the list of known layers.

A converter is a function `draft, value -> value`: it adds operations to the draft, each of values
that are there, and returns the value of the layer's output.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from robustra_tf.graph.ops import Add, Op, Relu, Reshape, Scale, Shape
from robustra_tf.graph.selection import Permute, Take

#: A value of a draft: its number, the layer's inputs first.
Value = int


class UnsupportedLayerError(ValueError):
    """A model holds something that is not made of affine maps and ReLUs."""


class Piece(NamedTuple):
    """An operation, the values that it reads, and its variables in the order of `weight_shapes`."""

    op: Op
    inputs: tuple[Value, ...]
    variables: tuple[tf.Variable, ...] = ()


class Draft:
    """A layer as operations.

    Attributes:
      layer: the Keras layer.
      operands: of a layer that takes several, each of them: a value, or a constant array.
      pieces: the operations; value `len(operands that are values) + i` is the output of piece `i`.
    """

    def __init__(self, layer: Any, shapes: Sequence[Shape], operands: Sequence[Any] = ()):
        self.layer = layer
        self.operands = tuple(operands) or tuple(range(len(shapes)))
        self.pieces: list[Piece] = []
        self._shapes = list(shapes)

    def shape(self, value: Value) -> Shape:
        """The shape of a value, without the batch."""
        return self._shapes[value]

    def add(self, op: Op, *inputs: Value, variables: Sequence[Any] = ()) -> Value:
        """An operation of values, with its Keras variables (None for one that there is not)."""
        own = tuple(variable.value for variable in variables if variable is not None)
        self.pieces.append(Piece(op, inputs, own))
        self._shapes.append(op.out_shape)
        return len(self._shapes) - 1

    def relu(self, value: Value) -> Value:
        """`max(z, 0)`."""
        return self.add(Relu(self.shape(value)), value)

    def sum(self, *values: Value) -> Value:
        """Of values of one shape."""
        return self.add(Add(self.shape(values[0]), len(values)), *values)

    def scale(self, value: Value, scale: Any, shift: Any = 0.0) -> Value:
        """`scale z + shift`, constants that broadcast to the value's shape."""
        shape = self.shape(value)
        scale, shift = np.asarray(scale, np.float64), np.asarray(shift, np.float64)
        for name, values in (("scale", scale), ("shift", shift)):
            try:
                fits = np.broadcast_shapes(values.shape, shape) == shape
            except ValueError:
                fits = False
            if not fits:
                raise self.refused(f"its {name} of shape {values.shape} does not fit {shape}")
            if not np.isfinite(values).all():
                raise self.refused(f"its {name} holds numbers that are not finite")
        constants = (_constants(scale), _constants(shift))
        return self.add(Scale(shape, constants=constants), value)

    def reshape(self, value: Value, shape: Shape) -> Value:
        """The same numbers, row-major."""
        before = self.shape(value)
        return value if before == shape else self.add(Reshape(before, shape), value)

    def take(self, value: Value, axis: int, indices: Iterable[int]) -> Value:
        """Entries of an axis; 0 for -1."""
        shape, indices = self.shape(value), tuple(map(int, indices))
        if indices == tuple(range(shape[axis])):
            return value
        if not indices:
            raise self.refused(f"it leaves nothing of an input of shape {shape}")
        return self.add(Take(shape, axis, indices), value)

    def permute(self, value: Value, order: Sequence[int]) -> Value:
        """Axes in another order."""
        order = tuple(order)
        if order == tuple(range(len(order))):
            return value
        return self.add(Permute(self.shape(value), order), value)

    def refused(self, reason: str) -> UnsupportedLayerError:
        """The error for the layer."""
        return unsupported(self.layer, reason)


def _constants(values: np.ndarray) -> Any:
    """Nested tuples of floats: an array that can be hashed."""
    if values.ndim == 0:
        return float(values)
    return tuple(_constants(value) for value in values)


Converter = Callable[..., Value]


class Known(NamedTuple):
    """How a kind of layer is converted.

    Attributes:
      converter: `draft, *values -> value`.
      condition: under which it is, in words.
      several: whether it takes several inputs.
    """

    converter: Converter
    condition: str
    several: bool


#: Keyed by the exact type: a subclass may compute something else.
KNOWN: dict[type, Known] = {}


def converts(
    *kinds: type, condition: str = "", several: bool = False
) -> Callable[[Converter], Converter]:
    """Registers a converter of some kinds of layer."""

    def register(function: Converter) -> Converter:
        KNOWN.update((kind, Known(function, condition, several)) for kind in kinds)
        return function

    return register


def supported() -> str:
    """The layers that can be converted, with their conditions, as one line."""
    return ", ".join(
        f"{kind.__name__} ({known.condition})" if known.condition else kind.__name__
        for kind, known in sorted(KNOWN.items(), key=lambda item: item[0].__name__)
    )


def unsupported(layer: Any, reason: str = "its type is not supported") -> UnsupportedLayerError:
    """The error for `layer`: its name, its type, why, and what is supported of that name."""
    kind = type(layer).__name__
    names = {known.__name__: KNOWN[known].condition for known in KNOWN}
    close = difflib.get_close_matches(kind, names, n=1, cutoff=0.75)
    near = f"{close[0]} ({names[close[0]]})" if close and names[close[0]] else "".join(close)
    return UnsupportedLayerError(
        f"layer {layer.name!r} of type {kind}: {reason}. "
        + (f"Supported: {near}; " if near else "")
        + "print(robustra_tf.graph.supported()) lists all layers that are"
    )


def check_plain_kernel(draft: Draft) -> None:
    """Refuses kernels that are more than a variable."""
    layer = draft.layer
    quantised = getattr(layer, "quantization_mode", None) is not None
    if getattr(layer, "lora_enabled", False) or quantised:
        raise draft.refused("its kernel is quantised or adapted by LoRA, not one variable")


def on_images(draft: Draft, value: Value, function: Callable[[Value], Value]) -> Value:
    """`function` of the value as an image [h, w, c]; what it gives, as the layer lays it out.

    A layer of one dimension works on one row; one with its channels first finds them last.
    """
    shape = draft.shape(value)
    last = len(shape) - 1
    if not 2 <= len(shape) <= 3:
        raise draft.refused(f"its input has shape {shape}, expected two or three axes")
    first = getattr(draft.layer, "data_format", "channels_last") == "channels_first"
    if first:
        value = draft.permute(value, (*range(1, last + 1), 0))
    if last == 1:
        value = draft.reshape(value, (1, *draft.shape(value)))
    value = function(value)
    if last == 1:
        value = draft.reshape(value, draft.shape(value)[1:])
    return draft.permute(value, (last, *range(last))) if first else value


def pair(values: int | Sequence[int], fill: int = 1) -> tuple[int, int]:
    """What a layer says of its dimensions, as rows and columns; `fill` for rows that are not."""
    rows, columns = (fill, values) if isinstance(values, int) else (fill, *values)[-2:]
    return rows, columns


def flat_size(shape: Shape) -> int:
    """How many numbers there are."""
    return math.prod(shape)
