"""Nodes that compute: constants folded, products with weights, sums of branches, ReLUs."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
from keras import layers

from robustra_tf.onnx.layout import Shape, positions
from robustra_tf.onnx.node import Node, Operand, handles
from robustra_tf.onnx.values import (
    Linear,
    Value,
    arranged,
    check_size,
    emitted,
    reshaped,
)

#: What stands for no bound in `Clip` of old files.
_LARGEST = float(np.finfo(np.float32).max)
_ONE, _ZERO = np.ones(()), np.zeros(())
_FUNCTIONS = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}


@handles("Add", "Sub", "Mul", "Div")
def _elementwise(node: Node) -> Operand:
    first, second = node.inputs
    if isinstance(first, Value) and isinstance(second, Value):
        if node.kind in ("Mul", "Div"):
            raise node.refused("expected a constant side, both depend on the input")
        return joined(first, second, layers.Add() if node.kind == "Add" else layers.Subtract())
    if isinstance(first, Value):
        return first.scaled(*_after(node, node.weight(1)))
    if isinstance(second, Value):
        return second.scaled(*_before(node, node.weight(0)))
    first, second = node.given(0), node.given(1)
    check_size(np.broadcast_shapes(first.shape, second.shape))
    whole = node.kind == "Div" and first.dtype.kind == "i"
    found = _FUNCTIONS[node.kind](first, second)
    return (np.trunc(found) if whole else found).astype(first.dtype)


def _after(node: Node, constant: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift of `z + c`, `z - c`, `z c` or `z / c`."""
    if node.kind in ("Add", "Sub"):
        return _ONE, constant if node.kind == "Add" else -constant
    if node.kind == "Div" and not constant.all():
        raise node.refused("expected a divisor without zeros")
    return (constant if node.kind == "Mul" else 1.0 / constant), _ZERO


def _before(node: Node, constant: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of `c + z`, `c - z` or `c z`."""
    if node.kind == "Div":
        raise node.refused("expected a constant divisor, it depends on the input")
    if node.kind == "Mul":
        return constant, _ZERO
    return (_ONE if node.kind == "Add" else -_ONE), constant


def joined(first: Value, second: Value, layer: layers.Layer) -> Value:
    """A layer of two values, the second one laid out as the first, or both as ONNX has them."""
    shape = np.broadcast_shapes(first.index.shape, second.index.shape)
    check_size(shape)
    tables = [np.broadcast_to(each.index, shape) for each in (first, second)]
    own, other = first.narrowed(), tables[1]
    if own.index.shape == shape and own.index.size == math.prod(own.shape):
        wanted = np.empty(own.index.size, np.int64)
        wanted[own.index.ravel()] = other.ravel()
        sides = own.tensor, emitted(arranged(second.source, wanted.reshape(own.shape)))
        return Value(own.index, layer(list(sides)))
    plain = unbatched(shape)
    sides = [
        emitted(arranged(each.source, table.reshape(plain)))
        for each, table in zip((first, second), tables, strict=True)
    ]
    return Value(positions(shape), layer(sides))


def unbatched(shape: Shape) -> Shape:
    """A shape without the batch of one at its head, if it has one."""
    return tuple(shape[1:]) if len(shape) > 1 and shape[0] == 1 else tuple(shape)


@handles("Concat")
def _concatenated(node: Node) -> Operand:
    parts, axis = node.inputs, node.attributes["axis"]
    one = next((part for part in parts if isinstance(part, Value)), None)
    if one is None:
        return np.concatenate([node.given(place) for place in range(len(parts))], axis)
    values = [
        part if isinstance(part, Value) else _constantly(one, node.given(place))
        for place, part in enumerate(parts)
    ]
    axis %= one.index.ndim
    found = np.concatenate([value.index for value in values], axis)
    if all(value.source is values[0].source for value in values):
        return dataclasses.replace(values[0], index=found)
    check_size(found.shape)
    batch = found.ndim > 1 and found.shape[0] == 1 and axis > 0
    image = batch and found.ndim > 2
    turned = [_channels_last(value.index, batch, image) for value in values]
    sources = zip(values, turned, strict=True)
    tensors = [emitted(arranged(value.source, table)) for value, table in sources]
    place = (-1 if axis == 1 else axis - 1) if image else axis + (not batch)
    merged = layers.Concatenate(axis=place)(tensors)
    index = positions(tuple(merged.shape[1:]))
    index = np.moveaxis(index, -1, 0) if image else index
    return Value(index.reshape(found.shape), merged, all(v.nonnegative for v in values))


def _constantly(one: Value, constant: np.ndarray) -> Value:
    """A constant as a value: a dense layer of zeros, with it as the bias, of another value."""
    size, units = math.prod(one.shape), constant.size
    check_size((size, units))
    make, bias = functools.partial(layers.Dense, units), constant.astype(np.float64).ravel()
    kernel = np.zeros((size, units))
    source = Linear(reshaped(one.tensor, (size,)), make, kernel, bias, (units,), (units,))
    return Value(positions(constant.shape), source, bool((bias >= 0).all()))


def _channels_last(index: np.ndarray, batch: bool, image: bool) -> np.ndarray:
    index = index[0] if batch else index
    return np.moveaxis(index, 0, -1) if image else index


@handles("MatMul")
def _product(node: Node) -> Value:
    first, second = node.inputs
    if isinstance(first, Value) and isinstance(second, Value):
        raise node.refused("expected a constant factor, both depend on the input")
    if isinstance(first, Value):
        return contracted(node, first, node.weight(1))
    left, value = node.weight(0), node.value(1)
    if value.index.ndim == 1:
        return contracted(node, value, left.T)
    turned = dataclasses.replace(value, index=np.swapaxes(value.index, -1, -2))
    found = contracted(node, turned, left.T)
    return dataclasses.replace(found, index=np.swapaxes(found.index, -1, -2))


@handles("Gemm")
def _gemm(node: Node) -> Value:
    if isinstance(node.operand(0), Value):
        value = node.value(0)
        weight = node.weight(1).T if node.attributes.get("transB", 0) else node.weight(1)
        if node.attributes.get("transA", 0):
            value = dataclasses.replace(value, index=value.index.T)
        found = contracted(node, value, weight * node.attributes.get("alpha", 1.0))
    else:  # B' A' for A B, both transposed
        value = node.value(1)
        weight = node.weight(0) if node.attributes.get("transA", 0) else node.weight(0).T
        if not node.attributes.get("transB", 0):
            value = dataclasses.replace(value, index=value.index.T)
        found = contracted(node, value, weight * node.attributes.get("alpha", 1.0))
        found = dataclasses.replace(found, index=found.index.T)
    beta = node.attributes.get("beta", 1.0)
    if node.operand(2) is None:
        return found
    if isinstance(node.operand(2), Value):
        return joined(found, node.value(2).scaled(np.array(beta), _ZERO), layers.Add())
    return found.scaled(_ONE, beta * node.weight(2))


def contracted(node: Node, value: Value, weight: np.ndarray) -> Value:
    """The last axis of a value times a matrix."""
    if weight.ndim != 2 or value.index.shape[-1:] != weight.shape[:1]:
        raise node.refused(
            f"expected a matrix of {value.index.shape[-1:]} rows, got {weight.shape}"
        )
    rows, (inputs, units) = value.index.shape[:-1], weight.shape
    check_size((*rows, units))
    if math.prod(rows) == 1:
        value = value.narrowed()
        size = math.prod(value.shape)
        kernel = np.zeros((size, units))
        np.add.at(kernel, value.index.ravel(), weight)
        entry, make = reshaped(value.tensor, (size,)), functools.partial(layers.Dense, units)
        shape: Shape = (units,)
    else:  # the same layer in every row
        table = value.index.reshape(-1, inputs)
        entry, kernel = emitted(arranged(value.source, table)), weight[None]
        make, shape = functools.partial(layers.Conv1D, units, 1), (len(table), units)
    source = Linear(entry, make, kernel, None, shape, (units,))
    return Value(positions(shape).reshape(*rows, units), source)


@handles("Relu")
def _relu(node: Node) -> Value:
    value = node.value().narrowed()
    return Value(value.index, layers.ReLU()(value.tensor), nonnegative=True)


@handles("LeakyRelu")
def _leaky(node: Node) -> Value:
    value = node.value().narrowed()
    slope = node.attributes.get("alpha", 0.01)
    if slope < 0:
        raise node.refused(f"expected alpha from 0, got {slope:g}")
    return Value(value.index, layers.LeakyReLU(negative_slope=slope)(value.tensor))


@handles("Clip")
def _clip(node: Node) -> Value:
    low, high = (
        _end(node, name, place, sign) for name, place, sign in (("min", 1, -1), ("max", 2, 1))
    )
    if low is not None and high is not None and not low < high:
        raise node.refused(f"expected min below max, got {low:g} and {high:g}")
    value = node.value()
    if low is None and high is None:
        return value
    if low is None:
        return _rectified(value.scaled(-_ONE, np.array(high)), None).scaled(-_ONE, np.array(high))
    moved = value.scaled(_ONE, np.array(-low)) if low else value
    found = _rectified(moved, None if high is None else high - low)
    return found.scaled(_ONE, np.array(low)) if low else found


def _rectified(value: Value, most: float | None) -> Value:
    value = value.narrowed()
    return Value(value.index, layers.ReLU(max_value=most)(value.tensor), nonnegative=True)


def _end(node: Node, name: str, place: int, sign: int) -> float | None:
    """A bound of `Clip`; None where there is none."""
    found = node.attributes.get(name)
    if found is None:
        given = node.constant(place)
        if given is None:
            return None
        if given.size != 1:
            raise node.refused(f"expected one number as {name}, got shape {given.shape}")
        found = given.item()
    return None if sign * found >= _LARGEST else float(found)
