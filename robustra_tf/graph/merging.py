"""Layers of several inputs: sums, differences, products with constants, maxima, concatenations."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from keras import layers

from robustra_tf.graph import maxima
from robustra_tf.graph.lowering import Draft, Value, converts

_EQUAL = "inputs of equal shapes"


def _operands(draft: Draft) -> tuple[list[Value], list[np.ndarray]]:
    """The values, all of one shape, and the constants that are given, without the batch."""
    values = [each for each in draft.operands if isinstance(each, int)]
    shapes = [draft.shape(value) for value in values]
    if len(set(shapes)) != 1:
        raise draft.refused(f"its inputs have shapes {shapes}, expected equal ones")
    constants = [_constant(draft, e, shapes[0]) for e in draft.operands if not isinstance(e, int)]
    return values, constants


def _constant(draft: Draft, given: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(given, np.float64)
    if array.ndim == 0:
        return array
    if array.ndim != len(shape) + 1 or array.shape[0] != 1:
        raise draft.refused(f"a constant has shape {array.shape}, expected (1, *{shape})")
    return array[0]


def _without_constants(draft: Draft) -> list[Value]:
    values, constants = _operands(draft)
    if constants:
        raise draft.refused("it is given a constant, expected outputs of layers")
    return values


@converts(layers.Add, condition=_EQUAL, several=True)
def _add(draft: Draft, *_: Value) -> Value:
    values, constants = _operands(draft)
    total = draft.sum(*values) if len(values) > 1 else values[0]
    return draft.scale(total, 1.0, sum(constants)) if constants else total


@converts(layers.Subtract, condition=_EQUAL, several=True)
def _subtract(draft: Draft, *_: Value) -> Value:
    values, constants = _operands(draft)
    # Keras takes a constant in the second place alone.
    if constants:
        return draft.scale(values[0], 1.0, -constants[0])
    return draft.sum(values[0], draft.scale(values[1], -1.0))


@converts(layers.Multiply, condition="one output of a layer, by constants", several=True)
def _multiply(draft: Draft, *_: Value) -> Value:
    values, constants = _operands(draft)
    if len(values) > 1:
        raise draft.refused("both factors depend on the input, expected constants but for one")
    return draft.scale(values[0], functools.reduce(np.multiply, constants, np.float64(1.0)))


@converts(layers.Average, condition=_EQUAL, several=True)
def _average(draft: Draft, *_: Value) -> Value:
    values = _without_constants(draft)
    return draft.scale(draft.sum(*values), 1.0 / len(values))


@converts(layers.Maximum, condition=_EQUAL, several=True)
def _maximum(draft: Draft, *_: Value) -> Value:
    return functools.reduce(functools.partial(maxima.larger, draft), _without_constants(draft))


@converts(layers.Minimum, condition=_EQUAL, several=True)
def _minimum(draft: Draft, *_: Value) -> Value:
    return functools.reduce(functools.partial(maxima.smaller, draft), _without_constants(draft))


@converts(layers.Concatenate, condition="over any axis but the batch's", several=True)
def _concatenate(draft: Draft, *_: Value) -> Value:
    """Each branch amid zeros in its place, and the sum of these."""
    if not all(isinstance(each, int) for each in draft.operands):
        raise draft.refused("it is given a constant, expected outputs of layers")
    values = draft.operands
    rank = len(draft.shape(values[0])) + 1
    axis = draft.layer.axis % rank - 1
    if axis < 0:
        raise draft.refused("its axis is the batch's, expected another one")
    sizes = [draft.shape(value)[axis] for value in values]
    placed, start = [], 0
    for value, size in zip(values, sizes, strict=True):
        after = sum(sizes) - start - size
        indices = (*[-1] * start, *range(size), *[-1] * after)
        placed.append(draft.take(value, axis, indices))
        start += size
    return draft.sum(*placed)
