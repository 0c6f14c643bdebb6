"""Whether a Keras model computes what its graph says, layer by layer, on given images.

A graph is a second copy of the network: what is proven of it holds for the model only where the two
compute the same. Compared are the outputs that the model's own layers give as it runs. Where they
gave `v` to a node `A v + b`, both their output and the graph's in float32 lie within the
`rounding.deviation` of `A v + b`, whatever the order of their sums: at most twice that apart. Every
layer starts from the model's own numbers again, so that the bound does not grow with the depth, and
the first layer that is off is the one to blame.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from robustra_tf.bounds.dual import half_widths
from robustra_tf.bounds.rounding import LARGEST, deviation
from robustra_tf.graph.build import Call, outputs
from robustra_tf.graph.graph import Graph, Node
from robustra_tf.graph.ops import AffineOp, Input, Relu

#: Bytes that a comparison may hold at once, and images at most.
_MEMORY, _MOST = 2**28, 512
#: Two computations, and what the tolerance itself loses in float32.
_TWICE = 2.01
#: What sums of tolerances may lose.
_ROUNDED = 1.01


class Agreement(NamedTuple):
    """What a model gives for images, compared with its graph.

    Attributes:
      logits: the model's own, [n, classes].
      comparable: boolean [n]; elsewhere float32 may overflow, and nothing is known of the model.
    """

    logits: np.ndarray
    comparable: np.ndarray


class Tolerance(NamedTuple):
    """How far two computations of a node may be apart: `slope max|v| + constant`, a channel each.

    Attributes:
      slope, constant: [channels], float32.
      safe: whether every coefficient is within what float32 can hold.
    """

    slope: tf.Tensor
    constant: tf.Tensor
    safe: tf.Tensor


def tolerances(graph: Graph) -> dict[int, Tolerance]:
    """The tolerance of every affine node, for the model's present weights."""
    weights = graph.weights(tf.float64)
    return {
        index: _tolerance(graph, node, weights)
        for index, node in enumerate(graph.structure.nodes)
        if isinstance(node.op, AffineOp) and not isinstance(node.op, Input)
    }


def compare(
    model: keras.Model,
    graph: Graph,
    calls: Sequence[Call],
    x: np.ndarray,
    allowed: dict[int, Tolerance] | None = None,
    what: str = "model",
) -> Agreement:
    """Runs a model on images and compares it with its graph.

    Args:
      model, graph, calls: a model as `graph.build.read` reads it.
      x: images [n, *input_shape].
      allowed: `tolerances(graph)`, where the weights are still the same.
      what: begins the text of an error.

    Raises:
      ValueError: a layer computes something else than the graph does; the text names the first one.
    """
    allowed = tolerances(graph) if allowed is None else allowed
    weights = graph.weights(tf.float32)
    parts = [
        _compared(model, graph, calls, weights, allowed, tf.constant(images), what)
        for images in _pieces(graph, x)
    ]
    if not parts:
        classes = graph.structure.output_shape[0]
        return Agreement(np.zeros((0, classes), np.float32), np.zeros(0, bool))
    return Agreement(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _tolerance(graph: Graph, node: Node, weights: Sequence[tf.Tensor]) -> Tolerance:
    # The deviation is affine in the magnitude, so that two magnitudes tell it; not of zeros, which
    # take no part in a sum.
    shape = node.op.in_shape
    ends = tf.stack([tf.fill(shape, tf.constant(m, tf.float64)) for m in (1e-300, 1.0)])
    found = deviation(node, weights, 1, *[ends] * len(node.inputs))
    constant, reach = tf.cast(_TWICE * _channels(found.each), tf.float32)
    return Tolerance(reach - constant, constant, tf.reduce_all(found.safe))


def _pieces(graph: Graph, x: np.ndarray) -> Iterator[np.ndarray]:
    each = 16 * sum(math.prod(node.op.out_shape) for node in graph.structure.nodes)
    together = int(min(max(_MEMORY // each, 1), _MOST))
    return (x[start : start + together] for start in range(0, len(x), together))


def _compared(model, graph, calls, weights, allowed, x, what) -> Agreement:
    nodes = graph.structure.nodes
    given: dict[int | None, list[tuple[keras.layers.Layer, tf.Tensor]]] = {}
    for (layer, node), own in zip(calls, outputs(model, x), strict=True):
        given.setdefault(node, []).append((layer, own))
    # Of every node: its output, how far the model's may be off it, and its largest entry, [n, 1].
    values: list[tf.Tensor] = []
    offs: list[tf.Tensor | float] = []
    largest: list[tf.Tensor] = []
    comparable = tf.fill((len(x),), True)
    for index, node in enumerate(nodes):
        if isinstance(node.op, Input):
            value, off = tf.cast(x, tf.float32), 0.0
        elif isinstance(node.op, Relu):
            value, off = tf.nn.relu(values[node.inputs[0]]), offs[node.inputs[0]]
        else:
            slope, constant, safe = allowed[index]
            value = node.compute(values, weights)
            off = slope * tf.add_n([largest[i] for i in node.inputs]) + constant
            off += sum(_carried(node, weights, offs[i]) for i in node.inputs)
            comparable &= safe
        for layer, own in given.get(index, ()):
            own = tf.cast(own, tf.float32)
            # Not a number is a difference too, unless the graph overflows itself.
            near = _within(tf.abs(own - value), off)
            if not tf.reduce_all(near | ~comparable):
                comparable &= _within(tf.abs(value), LARGEST - off)
            if not tf.reduce_all(near | ~comparable):
                image = int(tf.argmax(tf.cast(comparable & ~near, tf.int32)))
                raise ValueError(_difference(what, layer, own, value, off, image))
            comparable &= near
        if index in given:
            # From here on as the model goes on.
            comparable &= _within(off, LARGEST)
            value, off = own, 0.0
        values.append(value)
        offs.append(off)
        largest.append(tf.reduce_max(_channels(tf.abs(value)), axis=1, keepdims=True))
        comparable &= largest[-1][:, 0] <= LARGEST
    return Agreement(values[-1].numpy(), comparable.numpy())


def _channels(x: tf.Tensor) -> tf.Tensor:
    """The largest entry of each channel: [n, *shape] to [n, channels]."""
    return tf.reduce_max(x, axis=list(range(1, x.shape.rank - 1)))


def _within(x: tf.Tensor, bound: tf.Tensor | float) -> tf.Tensor:
    """Whether every entry of an image is a number up to its channel's bound [n, channels]: [n]."""
    if isinstance(x, float | int):
        return tf.constant(x <= bound)
    if not isinstance(bound, float | int):
        bound = tf.reshape(bound, (-1, *[1] * (x.shape.rank - 2), bound.shape[-1]))
    return tf.reduce_all(x <= bound, axis=list(range(1, x.shape.rank)))


def _carried(node: Node, weights: Sequence[tf.Tensor], off: tf.Tensor | float) -> tf.Tensor | float:
    """What errors of a node's input can become in its output."""
    if isinstance(off, float | int):
        return off
    shape = node.op.in_shape
    each = tf.reshape(off, (-1, *[1] * (len(shape) - 1), off.shape[-1]))
    entries = tf.broadcast_to(each, (tf.shape(each)[0], *shape))
    # A sum of positive numbers in float32, which may come out too small.
    return _channels(half_widths(node, weights, entries)) * _ROUNDED


def _difference(what, layer, own, value, off, image: int) -> str:
    distance = _channels(tf.abs(own - value))[image]
    explained = tf.broadcast_to(off, (len(own), len(distance)))[image]
    worst = int(tf.argmax(distance - explained))
    text = (
        f"{what}: layer {layer.name!r} of type {type(layer).__name__} computes something else than "
        f"was read of it: off by {float(distance[worst]):.3g} where rounding explains "
        f"{float(explained[worst]):.3g}"
    )
    if isinstance(layer, keras.layers.Normalization):
        text += "; weights set after adapt take effect with its finalize_state()"
    return text
