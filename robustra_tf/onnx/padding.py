"""Nodes that put numbers around a value."""

from __future__ import annotations

import math

import numpy as np
from keras import layers

from robustra_tf.onnx.arithmetic import unbatched
from robustra_tf.onnx.layout import positions
from robustra_tf.onnx.node import Node, handles
from robustra_tf.onnx.values import Value, arranged, check_size, emitted, reshaped


@handles("Pad")
def _pad(node: Node) -> Value:
    value, kind = node.value(), node.attributes.get("mode", "constant")
    sides = _sides(node, value.index.ndim)
    pairs = zip(sides, value.index.shape, strict=True)
    index = value.index[tuple(slice(max(-a, 0), n - max(-b, 0)) for (a, b), n in pairs)]
    sides = [(max(a, 0), max(b, 0)) for a, b in sides]
    check_size(tuple(n + sum(pair) for n, pair in zip(index.shape, sides, strict=True)))
    if kind in ("edge", "reflect"):
        return Value(np.pad(index, sides, kind), value.source, value.nonnegative)
    fill = node.attributes.get("value", 0.0) if node.constant(2) is None else node.weight(2)
    if kind != "constant" or np.any(fill):
        raise node.refused(f"expected zeros, edge or reflect, got {kind} {fill}")
    value = Value(index, value.source, value.nonnegative)
    image = index.ndim == 4 and index.shape[0] == 1 and not any(map(any, sides[:2]))
    return _zeros_around(value, sides) if image else _zeros_beside(value, sides)


def _sides(node: Node, rank: int) -> list[tuple[int, int]]:
    """The pads of every axis."""
    pads, axes = node.wholes("pads", 1), node.whole("axes", 3)
    axes = list(range(rank)) if axes is None else [axis % rank for axis in axes]
    if len(pads) != 2 * len(axes):
        raise node.refused(f"expected pads of {len(axes)} axes, got {pads}")
    found = dict(zip(axes, zip(pads[: len(axes)], pads[len(axes) :], strict=True), strict=True))
    return [found.get(axis, (0, 0)) for axis in range(rank)]


def _zeros_around(value: Value, sides: list[tuple[int, int]]) -> Value:
    """Of images."""
    tensor = emitted(arranged(value.source, np.moveaxis(value.index[0], 0, -1)))
    padded = layers.ZeroPadding2D(tuple(sides[2:]))(tensor)
    table = np.moveaxis(positions(tuple(padded.shape[1:])), -1, 0)[None]
    return Value(table, padded, value.nonnegative)


def _zeros_beside(value: Value, sides: list[tuple[int, int]]) -> Value:
    """Of any axes, one after the other."""
    shape = list(value.index.shape)
    tensor = emitted(arranged(value.source, value.index.reshape(unbatched(tuple(shape)))))
    for axis, pair in enumerate(sides):
        if any(pair):
            before, after = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
            tensor = reshaped(tensor, (before, shape[axis], after))
            tensor = layers.ZeroPadding2D(((0, 0), pair))(tensor)
            shape[axis] += sum(pair)
    tensor = reshaped(tensor, unbatched(tuple(shape)))
    return Value(positions(tuple(shape)), tensor, value.nonnegative)
