"""The network that a certificate's header describes, every operation and shape of it checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from . import moves, operations, windows
from .rounding import fractions

#: A layer is refused above this.
LARGEST_LAYER = 2**26
#: Operations of a network, and axes of anything.
MOST_NODES, MOST_AXES = 10_000, 8
#: Operations beside `input` and `relu`.
_KINDS = (
    "add",
    "average_pool",
    "batch_norm",
    "complement",
    "conv",
    "dense",
    "depthwise_conv",
    "pad",
    "permute",
    "pick",
    "reshape",
    "scale",
    "slope",
    "standardise",
    "take",
    "turned_conv",
)


class Node(NamedTuple):
    """One operation: None for the input, "relu", or an affine one; and the nodes that it reads."""

    op: operations.Affine | str | None
    inputs: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def affine(self) -> operations.Affine:
        """The operation of a node that is neither the input nor a ReLU; else a `TypeError`."""
        if not isinstance(self.op, operations.Affine):
            raise TypeError(f"op: expected an affine operation, got {self.op}")
        return self.op


class WrongError(Exception):
    """Something about a file; the reader adds which."""


def need(condition: bool | np.bool_, field: str, expected: str, got: Any) -> None:
    """Raises `WrongError` unless the condition holds of a field."""
    if not condition:
        raise WrongError(f"{field}: expected {expected}, got {str(got)[:80]}")


def number(value: Any) -> bool:
    """Whether a value of a header is a finite number."""
    return type(value) in (int, float) and abs(value) <= 1e300


class Network:
    """The nodes that a header describes, in float64, or in fractions with `exact`."""

    def __init__(self, described: Any, weights: Sequence[np.ndarray], exact: bool = False):
        right = isinstance(described, list) and 0 < len(described) <= MOST_NODES
        need(right, "network", f"a list of at most {MOST_NODES} operations", described)
        self._exact = exact
        self._weights = [self._number(weight) for weight in weights]
        self._used: set[int] = set()
        self.nodes: tuple[Node, ...] = ()
        for index, text in enumerate(described):
            self._where = f"network[{index}]"
            need(isinstance(text, dict), self._where, "an object", text)
            node = self._node(index, dict(text))
            size = math.prod(node.shape)
            fits = len(node.shape) < MOST_AXES and size <= LARGEST_LAYER
            need(fits, self._where, f"1 to {LARGEST_LAYER} outputs", node.shape)
            self.nodes += (node,)
        unused = set(range(len(weights))) - self._used
        need(not unused, "network", "every weight in use", f"no use of {sorted(unused)[:3]}")

    def _number(self, values: np.ndarray) -> np.ndarray:
        values = values.astype(np.float64)
        if not self._exact:
            return values
        need(np.isfinite(values).all(), "network", "finite numbers", "others")
        return fractions(values)

    def _node(self, index: int, text: dict[str, Any]) -> Node:
        kind = text.pop("op", None)
        need((kind == "input") == (index == 0), self._where, "the input first, and once", kind)
        if kind == "input":
            node = Node(None, (), self._shape(text.pop("shape", None)))
        else:
            inputs = self._indices(text.pop("inputs", None), "inputs", index)
            given = self._indices(text.pop("weights", None), "weights", len(self._weights))
            self._used |= set(given)
            need(len(inputs) == 1 or kind == "add", self._where, "one input", inputs)
            need(len(inputs) >= 1, self._where, "an input", inputs)
            shape = self.nodes[inputs[0]].shape
            same = all(self.nodes[i].shape == shape for i in inputs)
            need(same, self._where, "inputs of one shape", inputs)
            if kind == "relu":
                need(not given, self._where, "no weights", given)
                node = Node("relu", inputs, shape)
            else:
                op = self._affine(kind, text, shape, [self._weights[i] for i in given], len(inputs))
                node = Node(op, inputs, op.out_shape)
        need(not text, self._where, "no further fields", ", ".join(map(str, text)))
        return node

    def _affine(self, kind, text, shape, weights, arity) -> operations.Affine:
        need(kind in _KINDS, self._where, f"one of {', '.join(_KINDS)}", kind)
        if kind == "dense":
            kernel, bias = self._kernel(weights, 2)
            self._check_bias(bias, kernel)
            fits = shape == kernel.shape[:1]
            need(fits, self._where, f"an input of shape {kernel.shape[:1]}", shape)
            return operations.Dense(kernel, bias)
        if kind in ("batch_norm", "standardise"):
            return self._normalisation(kind, text, shape, weights)
        if kind in ("conv", "depthwise_conv", "turned_conv"):
            return self._convolution(kind, text, shape, weights)
        if kind in ("slope", "complement"):
            return self._slope(kind, shape, weights)
        need(not weights, self._where, "no weights", len(weights))
        if kind == "add":
            return operations.Add(shape, arity)
        if kind == "scale":
            parts = [self._constants(text.pop(name, None), shape) for name in ("scale", "shift")]
            return operations.Scale(shape, parts[0], self._number(np.zeros(())), parts[1])
        if kind == "reshape":
            after = self._shape(text.pop("shape", None))
            need(math.prod(after) == math.prod(shape), self._where, f"the size of {shape}", after)
            return operations.Reshape(shape, after)
        if kind == "take":
            axis = self._numbers([text.pop("axis", None)], 0)[0]
            need(axis < len(shape), self._where, f"an axis of {shape}", axis)
            indices = self._numbers(text.pop("indices", None), -1)
            right = len(indices) > 0 and all(i < shape[axis] for i in indices)
            need(right, self._where, f"indices below {shape[axis]}", indices)
            return moves.Take(shape, axis, indices)
        if kind == "permute":
            order = self._numbers(text.pop("order", None), 0)
            need(sorted(order) == list(range(len(shape))), self._where, "every axis once", order)
            return moves.Permute(shape, order)
        need(len(shape) == 3, self._where, "an image", shape)
        if kind == "pick":
            return self._pick(text, shape)
        if kind == "pad":
            return windows.Pad(shape, self._padding(text))
        size = self._pair(text.pop("size", None), 1)
        return windows.AveragePool(shape, size, *self._window(text, shape, size))

    def _convolution(self, kind, text, shape, weights) -> operations.Affine:
        """A dense kernel [kh, kw, channels, filters] of every kind of convolution."""
        line = len(weights) > 0 and weights[0].ndim == 3
        kernel, bias = self._kernel([weights[0][None], *weights[1:]] if line else weights, 4)
        groups = 1
        need(len(shape) == 3, self._where, "an image", shape)
        if kind == "turned_conv":
            kernel = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
        elif kind == "depthwise_conv":
            groups = kernel.shape[2]
            kernel = kernel.reshape(*kernel.shape[:2], 1, -1)
        elif "groups" in text:
            groups = self._numbers([text.pop("groups")], 2)[0]
            fits = kernel.shape[3] % groups == 0
            need(fits, self._where, f"filters for {groups} groups", kernel.shape)
        self._check_bias(bias, kernel)
        channels = kernel.shape[2] * groups
        need(shape[2] == channels, self._where, f"an image of {channels} channels", shape)
        dilation = self._pair(text.pop("dilation", [1, 1]), 1)
        size = math.prod((k - 1) * d + 1 for k, d in zip(kernel.shape[:2], dilation, strict=True))
        fits = size * channels * kernel.shape[3] <= LARGEST_LAYER
        need(fits, self._where, f"a kernel of at most {LARGEST_LAYER} numbers", size)
        full = windows.spread_kernel(windows.grouped_kernel(kernel, groups), dilation)
        window = self._window(text, shape, full.shape[:2])
        return windows.Convolution(shape, full, bias, *window, channels // groups)

    def _slope(self, kind, shape, weights) -> operations.Affine:
        need(len(weights) == 1, self._where, "one weight", len(weights))
        (slope,) = weights
        scale = slope if kind == "slope" else 1 - slope
        same = scale.ndim == len(shape)
        fits = same and all(a in (1, b) for a, b in zip(scale.shape, shape, strict=True))
        need(fits, self._where, f"a weight for {shape}", slope.shape)
        zero = self._number(np.zeros(()))
        return operations.Scale(shape, scale, zero, zero, weights)

    def _pick(self, text, shape) -> operations.Affine:
        size = self._pair(text.pop("size", None), 1)
        window = self._window(text, shape, size)
        slots = self._numbers([text.pop("slots", None)], 1)[0]
        need(shape[2] % slots == 0, self._where, f"channels for {slots} slots", shape)
        plus, minus = (self._numbers(text.pop(name, None), 0) for name in ("plus", "minus"))
        right = len(plus) > 0 and len(minus) in (0, len(plus))
        need(right, self._where, "entries, and as many others or none", (plus, minus))
        most = math.prod(size) * slots
        need(max(plus + minus) < most, self._where, f"entries below {most}", (plus, minus))
        return moves.Pick(shape, size, *window, slots, plus, minus)

    def _kernel(self, weights, rank: int):
        right = 1 <= len(weights) <= 2 and weights[0].ndim == rank and weights[0].size > 0
        need(right, self._where, f"a kernel of {rank} axes, perhaps a bias", len(weights))
        return weights[0], weights[1] if len(weights) == 2 else None

    def _check_bias(self, bias, kernel) -> None:
        fits = bias is None or bias.shape == kernel.shape[-1:]
        need(fits, self._where, "a bias for each filter", None if bias is None else bias.shape)

    def _normalisation(self, kind, text, shape, weights) -> operations.Affine:
        need(not self._exact, self._where, "no square root where fractions are asked for", kind)
        epsilon, parts = text.pop("epsilon", None), text.pop("parts", None)
        need(number(epsilon) and epsilon >= 0, self._where, "epsilon >= 0", epsilon)
        allowed = [["mean", "variance"]]
        if kind == "batch_norm":
            allowed += [[*front, *allowed[0]] for front in (["scale"], ["centre"])]
            allowed.append(["scale", "centre", *allowed[0]])
        need(parts in allowed, self._where, "parts in their order", parts)
        need(len(parts) == len(weights), self._where, f"{len(parts)} weights", len(weights))
        for weight in weights:
            fits = weight.shape == shape[len(shape) - weight.ndim :] and weight.ndim <= len(shape)
            need(fits, self._where, f"weights for {shape}", weight.shape)
        named = dict(zip(parts, weights, strict=True))
        return operations.normalisation(shape, named, float(epsilon), kind == "standardise")

    def _constants(self, values, shape) -> np.ndarray:
        try:
            found = np.array(values, np.float64)
            fits = np.broadcast_shapes(found.shape, shape) == shape and np.isfinite(found).all()
        except (ValueError, TypeError, OverflowError, RecursionError):
            fits = False
        need(fits, self._where, f"finite numbers that fit {shape}", values)
        return self._number(found)

    def _window(self, text, shape, size):
        strides, padding = self._pair(text.pop("strides", None), 1), self._padding(text)
        fits = all(n + sum(p) >= k for n, p, k in zip(shape[:2], padding, size, strict=True))
        need(fits, self._where, f"a window of {size} within the image", shape)
        return strides, padding

    def _padding(self, text):
        padding = text.pop("padding", None)
        right = isinstance(padding, list) and len(padding) == 2
        need(right, self._where, "padding of two sides", padding)
        return tuple(self._pair(pair, 0) for pair in padding)

    def _pair(self, values, least: int) -> tuple[int, int]:
        found = self._numbers(values, least)
        need(len(found) == 2, self._where, "two whole numbers", values)
        first, second = found
        return first, second

    def _shape(self, values) -> tuple[int, ...]:
        found = self._numbers(values, 1)
        fits = 0 < len(found) < MOST_AXES and math.prod(found) <= LARGEST_LAYER
        need(fits, self._where, f"a shape of at most {LARGEST_LAYER} numbers", values)
        return found

    def _indices(self, values, field: str, end: int) -> tuple[int, ...]:
        found = self._numbers(values, 0)
        need(all(i < end for i in found), self._where, f"{field} below {end}", values)
        return found

    def _numbers(self, values, least: int) -> tuple[int, ...]:
        right = isinstance(values, list) and all(
            type(v) is int and least <= v <= LARGEST_LAYER for v in values
        )
        need(right, self._where, f"whole numbers from {least} on", values)
        return tuple(values)
