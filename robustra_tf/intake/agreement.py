"""Whether a Keras model computes what its graph says, layer by layer, on given images.

A graph is a second copy of the network: what is proven of it holds for the model only where the two
compute the same. Compared are the outputs that the model's own layers give as it runs. Where they
gave `v` to a node `A v + b`, both their output and the graph's in float32 lie within the
`rounding.deviation` of `A v + b`, whatever the order of their sums: at most twice that apart. Every
layer starts from the model's own numbers again, so that the bound does not grow with the depth, and
the first layer that is off is the one to blame.

Where both compute by the same operations, as they do on one device, all numbers are the same one by
one: then nothing has to be bounded, and the comparison takes little more than to run the two.
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
from robustra_tf.graph.ops import Input, Relu, Scale

#: Bytes that a comparison may hold at once, and images at most.
_MEMORY, _MOST = 2**28, 1024
#: Two computations, and what the tolerance itself loses in float32.
_TWICE = 2.01
#: What sums of tolerances may lose.
_ROUNDED = 1.01
#: Sums of products of two numbers up to this keep to `LARGEST`, however many and in which order.
_SMALL = 2.0**40


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


class Tolerances:
    """Those of a graph's affine nodes, each worked out when it is first asked for."""

    def __init__(self, graph: Graph):
        """They are meant for weights that stay what they are."""
        self._graph = graph
        self._known: dict[int, Tolerance] = {}

    def of(self, index: int) -> Tolerance:
        """The tolerance of a node."""
        if index not in self._known:
            nodes, weights = self._graph.structure.nodes, self._graph.weights(tf.float64)
            self._known[index] = _tolerance(nodes[index], weights)
        return self._known[index]


def compare(
    model: keras.Model,
    graph: Graph,
    calls: Sequence[Call],
    x: np.ndarray,
    allowed: Tolerances | None = None,
    what: str = "model",
) -> Agreement:
    """Runs a model on images and compares it with its graph.

    Args:
      model, graph, calls: a model as `graph.build.read` reads it.
      x: images [n, *input_shape].
      allowed: what is known of the graph's tolerances, where the weights are still the same.
      what: begins the text of an error.

    Raises:
      ValueError: a layer computes something else than the graph does; the text names the first one.
    """
    allowed = Tolerances(graph) if allowed is None else allowed
    weights = graph.weights(tf.float32)
    parts = [
        _compared(model, graph, calls, weights, allowed, tf.constant(images), what)
        for images in _pieces(graph, x)
    ]
    if not parts:
        classes = graph.structure.output_shape[0]
        return Agreement(np.zeros((0, classes), np.float32), np.zeros(0, bool))
    return Agreement(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _tolerance(node: Node, weights: Sequence[tf.Tensor]) -> Tolerance:
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
    given: dict[int | None, list[tuple[keras.layers.Layer, tf.Tensor]]] = {}
    for (layer, node), own in zip(calls, outputs(model, x), strict=True):
        given.setdefault(node, []).append((layer, tf.cast(own, tf.float32)))
    walk = _Walk(graph.structure.nodes, weights, allowed, tf.cast(x, tf.float32))
    for index in range(len(walk.nodes)):
        value = walk.step()
        for layer, own in given.get(index, ()):
            if not np.array_equal(own.numpy(), value.numpy()):
                walk.judge(layer, own, what)
        if index in given:
            walk.go_on(given[index][-1][1])
    return walk.ended()


class _Walk:
    """Through a graph, node by node; sizes and tolerances only as far as they are asked for.

    Attributes:
      values: the nodes' outputs so far.
    """

    def __init__(self, nodes: Sequence[Node], weights, allowed: Tolerances, x: tf.Tensor):
        self.nodes, self.values = nodes, []
        self._weights, self._allowed, self._x = weights, allowed, x
        self._given: set[int] = set()
        self._offs: dict[int, tf.Tensor | float] = {}
        self._largest: dict[int, tf.Tensor] = {}
        self._comparable, self._known = tf.fill((len(x),), True), 0

    def step(self) -> tf.Tensor:
        """The next node's output."""
        node = self.nodes[len(self.values)]
        first = isinstance(node.op, Input)
        self.values.append(self._x if first else node.compute(self.values, self._weights))
        return self.values[-1]

    def judge(self, layer: keras.layers.Layer, own: tf.Tensor, what: str) -> None:
        """Refuses (`ValueError`) what a layer gave for the last node beyond what rounding does."""
        index, value = len(self.values) - 1, self.values[-1]
        off = self._moved(index)
        comparable = self._follow(index) & self._safe(index)
        # Not a number is a difference too, unless the graph overflows itself.
        near = _within(tf.abs(own - value), off)
        if not tf.reduce_all(near | ~comparable):
            comparable &= _within(tf.abs(value), LARGEST - off)
        if not tf.reduce_all(near | ~comparable):
            image = int(tf.argmax(tf.cast(comparable & ~near, tf.int32)))
            raise ValueError(_difference(what, layer, own, value, off, image))
        self._comparable = comparable & near & _within(off, LARGEST)

    def go_on(self, own: tf.Tensor) -> None:
        """From the last node on as the model does."""
        self._given.add(len(self.values) - 1)
        self.values[-1] = own

    def ended(self) -> Agreement:
        """The logits, and whose numbers no order of any sum makes overflow."""
        if not self._small():
            self._comparable = self._follow(len(self.nodes))
        return Agreement(self.values[-1].numpy(), self._comparable.numpy())

    def _moved(self, index: int) -> tf.Tensor | float:
        """How far a node's output may be off what the model's layer gives, by channels."""
        node = self.nodes[index]
        if isinstance(node.op, Input):
            return 0.0
        if isinstance(node.op, Relu):
            return self._off(node.inputs[0])
        if index not in self._offs:
            slope, constant, _ = self._allowed.of(index)
            off = slope * tf.add_n([self._reach(i) for i in node.inputs]) + constant
            off += sum(_carried(node, self._weights, self._off(i)) for i in node.inputs)
            self._offs[index] = off
        return self._offs[index]

    def _off(self, index: int) -> tf.Tensor | float:
        """The same of what is gone on with."""
        return 0.0 if index in self._given else self._moved(index)

    def _reach(self, index: int) -> tf.Tensor:
        """The largest entry of a node's output, [n, 1]."""
        if index not in self._largest:
            entries = _channels(tf.abs(self.values[index]))
            self._largest[index] = tf.reduce_max(entries, axis=1, keepdims=True)
        return self._largest[index]

    def _safe(self, index: int) -> tf.Tensor | bool:
        plain = isinstance(self.nodes[index].op, Input | Relu)
        return plain or self._allowed.of(index).safe

    def _follow(self, stop: int) -> tf.Tensor:
        """Which images are comparable by all that is known of the nodes before one."""
        for index in range(self._known, stop):
            kept = self._reach(index)[:, 0] <= LARGEST
            if index in self._given:
                kept &= _within(self._moved(index), LARGEST)
            self._comparable &= kept & self._safe(index)
        self._known = max(self._known, stop)
        return self._comparable

    def _small(self) -> bool:
        """Whether sizes alone show that nothing overflows."""
        for index, (node, value) in enumerate(zip(self.nodes, self.values, strict=True)):
            # A ReLU's numbers are no larger than those that it reads.
            if not isinstance(node.op, Relu) and not _kept(value):
                return False
            if isinstance(node.op, Scale) and not self._safe(index):
                return False
        return all(map(_kept, self._weights))


def _kept(value: tf.Tensor) -> bool:
    found = value.numpy()
    return not found.size or bool(found.max() <= _SMALL and found.min() >= -_SMALL)


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
