"""Values of an ONNX graph as Keras tensors that may lie in another order.

ONNX keeps channels first, Keras last. A value is a tensor of Keras's and a table that says where
each entry of the ONNX value lies in it, so that reshapes, transposes and slices cost nothing until
a layer needs an order. Affine maps wait too, for constants that follow them to be folded in.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import keras
import numpy as np
from keras import layers

from robustra_tf.onnx.layout import Crop, Shape, crops, positions, turn

#: Numbers of a value, and of a matrix that stands for a selection.
MOST_NUMBERS = 2**24


def check_size(shape: Shape) -> None:
    """Refuses a value that would be too large, or empty, before anything of it is made."""
    size = math.prod(int(n) for n in shape)
    if not 0 < size <= MOST_NUMBERS:
        raise ValueError(f"expected 1 to {MOST_NUMBERS} numbers in a value, got {size} ({shape})")


@dataclasses.dataclass(frozen=True, eq=False)
class Linear:
    """A convolution or dense layer to be made of `entry`: constants behind it change its weights.

    Attributes:
      entry: what it reads.
      make: the layer, `use_bias=` given.
      kernel: as Keras keeps it.
      bias: [filters], or None.
      shape: of its output.
      tail: the axes of the kernel that are the filters.
    """

    entry: keras.KerasTensor
    make: Callable[..., layers.Layer]
    kernel: np.ndarray
    bias: np.ndarray | None
    shape: Shape
    tail: Shape

    def scaled(self, scale: np.ndarray, shift: np.ndarray) -> Linear | None:
        """Followed by `scale z + shift` of the output's shape; None if not alike for a filter."""
        factor, added = _of_filters(scale, self.shape), _of_filters(shift, self.shape)
        if factor is None or added is None:
            return None
        bias = added if self.bias is None else self.bias * factor + added
        bias = bias if self.bias is not None or added.any() else None
        return dataclasses.replace(self, kernel=self.kernel * factor.reshape(self.tail), bias=bias)

    @functools.cached_property
    def output(self) -> keras.KerasTensor:
        """The tensor, by a layer that is made now."""
        layer = self.make(use_bias=self.bias is not None, kernel_initializer="zeros")
        tensor = layer(self.entry)
        weights = [self.kernel] if self.bias is None else [self.kernel, self.bias]
        layer.set_weights([_finite(weight) for weight in weights])
        return tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Scaled:
    """`scale z + shift` to be made of `entry`, each of its shape."""

    entry: keras.KerasTensor
    scale: np.ndarray
    shift: np.ndarray

    @property
    def shape(self) -> Shape:
        """Of one example."""
        return tuple(self.entry.shape[1:])

    def scaled(self, scale: np.ndarray, shift: np.ndarray) -> Scaled:
        """Followed by another one."""
        return Scaled(self.entry, self.scale * scale, self.shift * scale + shift)

    @functools.cached_property
    def output(self) -> keras.KerasTensor:
        """The tensor, by a layer that is made now unless it would do nothing."""
        if (self.scale == 1).all() and not self.shift.any():
            return self.entry
        scale, shift = (_compact(_finite(each)) for each in (self.scale, self.shift))
        return layers.Rescaling(scale, offset=shift)(self.entry)


Source = keras.KerasTensor | Linear | Scaled


def _finite(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        found = values.astype(np.float32)
    if not np.isfinite(found).all():
        raise ValueError("expected weights in the range of float32, got larger ones")
    return found


def _of_filters(values: np.ndarray, shape: Shape) -> np.ndarray | None:
    """[filters], where the values do not depend on the place."""
    rows = values.reshape(-1, shape[-1])
    return rows[0] if (rows == rows[0]).all() else None


def _compact(values: np.ndarray) -> float | list:
    """A number, or nested lists that broadcast to the values: without axes that say nothing."""
    for axis in range(values.ndim):
        first = values.take([0], axis)
        values = first if (values == first).all() else values
    while values.ndim and values.shape[0] == 1:
        values = values[0]
    return values.tolist()


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """What an ONNX graph calls a value, batch of one.

    Attributes:
      index: in the ONNX value's shape, positions in the source's numbers of one example.
      source: the tensor, or what it will be made of.
      nonnegative: whether no entry is below 0.
    """

    index: np.ndarray
    source: Source
    nonnegative: bool = False

    @property
    def tensor(self) -> keras.KerasTensor:
        """The source as a tensor."""
        return emitted(self.source)

    @property
    def shape(self) -> Shape:
        """Of the source."""
        return shape_of(self.source)

    def settled(self) -> Value:
        """As a tensor: what several nodes read is made once."""
        return dataclasses.replace(self, source=self.tensor)

    def narrowed(self) -> Value:
        """Without numbers of the source that are not read."""
        used, back = np.unique(self.index.ravel(), return_inverse=True)
        if len(used) == math.prod(self.shape):
            return self
        found = crops(used, self.shape)
        tensor = self.tensor
        if found is None:
            return dataclasses.replace(
                self, source=_selected(tensor, used), index=back.reshape(self.index.shape)
            )
        for crop in found:
            tensor = _cropped(tensor, crop)
        # What is left has kept its order.
        return dataclasses.replace(self, source=tensor, index=back.reshape(self.index.shape))

    def scaled(self, scale: np.ndarray, shift: np.ndarray) -> Value:
        """`scale z + shift` with constants that broadcast to the ONNX value, or it to them."""
        shape = np.broadcast_shapes(self.index.shape, scale.shape, shift.shape)
        check_size(shape)
        value = dataclasses.replace(self, index=np.broadcast_to(self.index, shape)).narrowed()
        factor, added = (value.spread(np.broadcast_to(each, shape)) for each in (scale, shift))
        if factor is None or added is None:  # entries that are read twice part
            source = arranged(value.source, value.index)
            return Value(positions(shape), source).scaled(scale, shift)
        source = value.source
        found = source.scaled(factor, added) if isinstance(source, Linear | Scaled) else None
        return Value(value.index, found or Scaled(value.tensor, factor, added))

    def spread(self, values: np.ndarray) -> np.ndarray | None:
        """Numbers of the ONNX value's shape in the source's; None where two claim one place."""
        full = np.zeros(math.prod(self.shape))
        full[self.index.ravel()] = values.ravel()
        return full.reshape(self.shape) if (full[self.index] == values).all() else None


def emitted(source: Source) -> keras.KerasTensor:
    """A source as a tensor."""
    return source.output if isinstance(source, Linear | Scaled) else source


def shape_of(source: Source) -> Shape:
    """The shape of one example."""
    return source.shape if isinstance(source, Linear | Scaled) else tuple(source.shape[1:])


def arranged(source: Source, wanted: np.ndarray) -> Source:
    """The numbers at positions of a source as a tensor of the positions' shape.

    A change of scale goes behind what moves its numbers.
    """
    if isinstance(source, Scaled):
        constants = (each.ravel()[wanted] for each in (source.scale, source.shift))
        return Scaled(emitted(arranged(source.entry, wanted)), *constants)
    flat, shape = wanted.ravel(), shape_of(source)
    if np.array_equal(flat, np.arange(math.prod(shape))):
        return source if wanted.shape == shape else reshaped(emitted(source), wanted.shape)
    value = Value(wanted, source).narrowed()
    tensor = value.tensor
    if value.index.size == math.prod(value.shape):
        found = turn(value.index, value.shape)
        if found is not None:
            if found.order != tuple(range(len(found.order))):
                tensor = reshaped(tensor, found.before)
                tensor = layers.Permute([axis + 1 for axis in found.order])(tensor)
            return reshaped(tensor, wanted.shape)
    return reshaped(_selected(tensor, value.index.ravel()), wanted.shape)


def reshaped(tensor: keras.KerasTensor, shape: Shape) -> keras.KerasTensor:
    """The same numbers in another shape."""
    if tuple(tensor.shape[1:]) == tuple(shape):
        return tensor
    return layers.Flatten()(tensor) if len(shape) == 1 else layers.Reshape(shape)(tensor)


def _selected(tensor: keras.KerasTensor, flat: np.ndarray) -> keras.KerasTensor:
    """Numbers at any positions, by a dense layer of zeros and ones."""
    size = math.prod(tensor.shape[1:])
    check_size((size, len(flat)))
    kernel = np.zeros((size, len(flat)))
    kernel[flat, np.arange(len(flat))] = 1.0
    make = functools.partial(layers.Dense, len(flat), trainable=False)
    entry = reshaped(tensor, (size,))
    return Linear(entry, make, kernel, None, (len(flat),), (len(flat),)).output


def _cropped(tensor: keras.KerasTensor, crop: Crop) -> keras.KerasTensor:
    """One axis cut, as that of an image."""
    shape = tuple(tensor.shape[1:])
    image = len(shape) == 3 and crop.axis < 2
    axis = crop.axis if image else 1
    if not image:
        before, after = math.prod(shape[: crop.axis]), math.prod(shape[crop.axis + 1 :])
        tensor = reshaped(tensor, (before, shape[crop.axis], after))
    end = crop.start + (crop.count - 1) * crop.step + 1
    sides, strides = [(0, 0), (0, 0)], [1, 1]
    sides[axis], strides[axis] = (crop.start, shape[crop.axis] - end), crop.step
    if any(sides[axis]):
        tensor = layers.Cropping2D(tuple(sides))(tensor)
    if crop.step > 1:  # the mean of one number
        tensor = layers.AveragePooling2D((1, 1), tuple(strides))(tensor)
    return reshaped(tensor, (*shape[: crop.axis], crop.count, *shape[crop.axis + 1 :]))
