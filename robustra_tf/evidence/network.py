"""A network in the form in which files name it: its operations as plain values, and its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import tensorflow as tf

from robustra_tf.evidence import meaning
from robustra_tf.graph.convolutions import (
    Conv2D,
    Convolution,
    DepthwiseConv2D,
    TurnedConv2D,
)
from robustra_tf.graph.graph import Graph, Node
from robustra_tf.graph.ops import Add, Dense, Input, Relu, Reshape, Scale
from robustra_tf.graph.registry import PerOperation
from robustra_tf.graph.selection import Permute, Pick, Take
from robustra_tf.graph.spatial import Pad2D, Pool2D
from robustra_tf.storage.fingerprint import arrays_sha256

# How far two ways to compute a value may be apart, of the largest that there is.
_ROUNDING = 1e-9


class Described(NamedTuple):
    """A network as files have it, with the weights that it had when it was described.

    Attributes:
      operations: as plain values.
      weights: in the order that the operations number them.
      sha256: of both.
      outputs: how many there are.
    """

    operations: list[dict[str, Any]]
    weights: list[np.ndarray]
    sha256: str
    outputs: int

    @classmethod
    def of(cls, graph: Graph) -> Self:
        """Describes a graph, and compares what is described with it at random inputs.

        Raises:
          ValueError: they compute different things; names the first operation that does.
        """
        operations, weights = describe(graph), [v.numpy() for v in graph.variables]
        _compare(graph, json.loads(json.dumps(operations)), weights)
        (outputs,) = graph.structure.output_shape
        return cls(operations, weights, sha256(operations, weights), outputs)


def _compare(graph: Graph, operations: list[dict[str, Any]], weights: Sequence[np.ndarray]) -> None:
    """Refuses operations that are not the graph's, by their values in float64."""
    shape, rng = graph.structure.input_shape, np.random.default_rng(0)
    points = np.concatenate([rng.uniform(size=(2, *shape)), 3.0 * rng.normal(size=(2, *shape))])
    own = graph.structure.values(graph.weights(tf.float64), tf.constant(points), tf.nn.relu)
    fault = "a fault of what writes it, and nothing is written"
    try:
        described = list(meaning.values(operations, weights, points))
    except (ValueError, IndexError, KeyError) as error:
        raise ValueError(f"network: the description says nothing ({error}): {fault}") from error
    largest = 1.0
    for index, (expected, found) in enumerate(zip(own, described, strict=True)):
        largest = max(largest, float(np.abs(expected).max(initial=0.0)))
        same = found.shape == tuple(expected.shape)
        if not same or not (np.abs(found - expected) <= _ROUNDING * largest).all():
            raise ValueError(
                f"network[{index}]: the description of {operations[index]['op']} computes "
                f"something else than the network: {fault}"
            )


def network_sha256(graph: Graph) -> str:
    """Hash of what a network computes: its operations and its weights, as hexadecimal digits.

    SHA-256 of the operations as JSON (sorted keys, no spaces) followed by the digits of
    `fingerprint.arrays_sha256` of the weights.
    """
    return sha256(describe(graph), [variable.numpy() for variable in graph.variables])


def describe(graph: Graph) -> list[dict[str, Any]]:
    """The operations as plain values, in topological order; the last one gives the logits."""
    return [_described(node) for node in graph.structure.nodes]


def sha256(operations: list[dict[str, Any]], weights: Sequence[np.ndarray]) -> str:
    """The hash of operations as `describe` gives them, and of their weights."""
    text = json.dumps(operations, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256((text + arrays_sha256(weights)).encode()).hexdigest()


def _described(node: Node) -> dict[str, Any]:
    """A node as plain values; what weights tell by their shapes is left out."""
    links = {"inputs": list(node.inputs), "weights": list(node.weights)}
    return described(node.op) | (links if node.inputs else {})


#: `(op) -> dict`: an operation as plain values.
described = PerOperation("with a description")


@described.of(Input)
def _(op: Input) -> dict[str, Any]:
    return {"op": "input", "shape": list(op.shape)}


@described.of(Relu)
def _(op: Relu) -> dict[str, Any]:
    return {"op": "relu"}


@described.of(Add)
def _(op: Add) -> dict[str, Any]:
    return {"op": "add"}


@described.of(Dense)
def _(op: Dense) -> dict[str, Any]:
    return {"op": "dense"}


@described.of(Reshape)
def _(op: Reshape) -> dict[str, Any]:
    return {"op": "reshape", "shape": list(op.after)}


@described.of(Pad2D)
def _(op: Pad2D) -> dict[str, Any]:
    return {"op": "pad", "padding": _lists(op.padding)}


@described.of(Conv2D)
def _(op: Conv2D) -> dict[str, Any]:
    groups = {} if op.groups == 1 else {"groups": op.groups}
    return {"op": "conv"} | _convolution(op) | groups


@described.of(DepthwiseConv2D)
def _(op: DepthwiseConv2D) -> dict[str, Any]:
    return {"op": "depthwise_conv"} | _convolution(op)


@described.of(TurnedConv2D)
def _(op: TurnedConv2D) -> dict[str, Any]:
    return {"op": "turned_conv"} | _convolution(op)


def _convolution(op: Convolution) -> dict[str, Any]:
    """What every convolution says; taps one after another are not mentioned."""
    dilation = {} if op.dilation == (1, 1) else {"dilation": list(op.dilation)}
    return {"strides": list(op.strides), "padding": _lists(op.padding)} | dilation


@described.of(Pick)
def _(op: Pick) -> dict[str, Any]:
    window = {"size": list(op.size), "strides": list(op.strides), "padding": _lists(op.padding)}
    taken = {"slots": op.slots, "plus": list(op.plus), "minus": list(op.minus)}
    return {"op": "pick"} | window | taken


@described.of(Take)
def _(op: Take) -> dict[str, Any]:
    return {"op": "take", "axis": op.axis, "indices": list(op.indices)}


@described.of(Permute)
def _(op: Permute) -> dict[str, Any]:
    return {"op": "permute", "order": list(op.order)}


@described.of(Pool2D)
def _(op: Pool2D) -> dict[str, Any]:
    window = {"strides": list(op.strides), "padding": _lists(op.padding)}
    return {"op": "average_pool", "size": list(op.size), **window}


@described.of(Scale)
def _(op: Scale) -> dict[str, Any]:
    if op.kind == "constant":
        scale, shift = op.constants
        return {"op": "scale", "scale": _lists(scale), "shift": _lists(shift)}
    if op.kind in ("slope", "complement"):
        return {"op": op.kind}
    parts = ["scale"] * op.use_scale + ["centre"] * op.use_centre + ["mean", "variance"]
    return {"op": op.kind, "epsilon": op.epsilon, "parts": parts}


def _lists(values: Any) -> Any:
    return [_lists(value) for value in values] if isinstance(values, tuple) else values
