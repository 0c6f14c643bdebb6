"""The arithmetic floor of exact bounds: operations that no exact method can do without.

Counted from the network's structure alone, whatever the library does: one multiplication and one
addition for every coefficient of a dual row and every weight that it meets on its way back to the
image. Zeros outside a row's window and zeros that strides leave are not counted; taps that fall on
an image's zero padding are. A row starts as its neuron's own weights, for which nothing is
computed. Not counted: work of one operation per coefficient (slopes, absolute sums), and the loss.

A step takes the forward count three times for the network that it trains (forward, and a gradient
in rows and in weights) and once for its reference.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

from robustra_tf.bounds.cost import window_before
from robustra_tf.bounds.window import Window
from robustra_tf.graph.convolutions import Conv2D, DepthwiseConv2D, TurnedConv2D
from robustra_tf.graph.graph import Structure
from robustra_tf.graph.ops import Add, Dense, Input, Op, Relu, Reshape, Scale
from robustra_tf.graph.registry import PerOperation
from robustra_tf.graph.selection import Permute, Pick, Take
from robustra_tf.graph.spatial import Pad2D, Pool2D

#: How often a step takes the forward count of the network that it trains.
PASSES = 3


@dataclasses.dataclass(frozen=True)
class Layer:
    """The rows of one layer of neurons.

    Attributes:
      name: the Keras layer.
      rows: how many there are.
      flops: operations of one row.
    """

    name: str
    rows: int
    flops: int


@dataclasses.dataclass(frozen=True)
class Floor:
    """Operations per example of one exact bound, forward.

    Attributes:
      layers: one entry per ReLU, of its pre-activations; the last one of the margins.
      forward: operations of the network itself.
    """

    layers: tuple[Layer, ...]
    forward: int

    @property
    def total(self) -> int:
        """With a row for every neuron."""
        return self.forward + sum(layer.rows * layer.flops for layer in self.layers)

    def with_rows(self, rows: Sequence[float]) -> float:
        """With so many rows per ReLU instead, such as its unstable neurons; margins as they are."""
        counts = [*rows, self.layers[-1].rows]
        return self.forward + sum(
            count * layer.flops for count, layer in zip(counts, self.layers, strict=True)
        )


@functools.lru_cache(maxsize=64)
def floor(structure: Structure) -> Floor:
    """Count the exact bound of a network."""
    layers = []
    for relu in structure.relus:
        (below,) = structure.nodes[relu].inputs
        op = structure.nodes[below].op
        name = structure.nodes[below].name
        layers.append(Layer(name, math.prod(op.out_shape), row_flops(structure, below)))
    last = len(structure.nodes) - 1
    # The row of the label is zero. A row of a margin is a difference of two rows of logits.
    margins = structure.output_shape[0] - 1
    layers.append(Layer("margins", margins, row_flops(structure, last)))
    forward = sum(_all(node.op) for node in structure.nodes)
    return Floor(tuple(layers), forward)


def step(structure: Structure, method: str, inner: str = "dual") -> int:
    """Operations per example of a training step; a reference has the same structure.

    Args:
      structure: of the trained network.
      method: `robustra`, `wong` or `natural`.
      inner: where bounds of inner layers come from; intervals are forward passes, and take no rows:
        one for their centres, one for their widths, one for the relaxed network.
    """
    bound = floor(structure)
    total = bound.total
    if inner == "interval":
        total = bound.with_rows([0] * len(structure.relus)) + 3 * bound.forward
    passes = {
        "robustra": (PASSES + 1) * total,
        "wong": PASSES * total,
        "natural": PASSES * bound.forward,
    }
    return passes[method]


@dataclasses.dataclass(frozen=True)
class _Row:
    """Where a row may be nonzero: a window of an image, or everywhere; `unit`: one entry alone."""

    window: Window | None
    unit: bool

    def size(self, op: Op) -> int:
        """Entries on the output of `op`."""
        if self.unit:
            return 1
        if self.window is None:
            return math.prod(op.out_shape)
        return self.window.area * op.out_shape[-1]


@functools.lru_cache(maxsize=256)
def row_flops(structure: Structure, index: int) -> int:
    """Operations that carry one row from node `index` back to the image."""
    shape = structure.nodes[index].op.out_shape
    window = Window(shape[:2], shape[:2]) if len(shape) == 3 else None
    pending: dict[int, _Row] = {index: _Row(window, unit=True)}
    total = 0
    for at in range(index, 0, -1):
        if at not in pending:
            continue
        node, row = structure.nodes[at], pending.pop(at)
        total += 0 if row.unit else row.size(node.op) * taps(node.op)
        row = _before(row, node.op)
        for source in node.inputs:
            pending[source] = _joined(pending.get(source), row)
    return total


#: `(op) -> int`: operations per entry of the output, two for every input that it reads; of the
#: operation alone.
taps = PerOperation("that is counted")


@taps.of(Dense)
def _(op: Dense) -> int:
    return 2 * op.inputs


@taps.of(Pool2D)
def _(op: Pool2D) -> int:
    return 2 * math.prod(op.size)


@taps.of(Conv2D)
def _(op: Conv2D) -> int:
    return 2 * math.prod(op.taps) * op.shape[-1] // op.groups


@taps.of(TurnedConv2D)
def _(op: TurnedConv2D) -> int:
    return 2 * math.prod(op.taps) * op.shape[-1]


@taps.of(DepthwiseConv2D)
def _(op: DepthwiseConv2D) -> int:
    return 2 * math.prod(op.taps)


@taps.of(Pick)
def _(op: Pick) -> int:
    return 2 if op.minus else 0


@taps.of(Input, Relu, Add, Scale, Reshape, Pad2D, Take, Permute)
def _(op: Op) -> int:
    return 0


def _all(op: Op) -> int:
    return math.prod(op.out_shape) * taps(op)


def _before(row: _Row, op: Op) -> _Row:
    """The row on the input of `op`."""
    unit = row.unit and not taps(op)
    window = None if row.window is None else window_before(op, row.window)
    if window is None:
        return _Row(None, unit)
    covered = window.area >= math.prod(window.image)
    return _Row(None if covered else window, unit)


def _joined(first: _Row | None, second: _Row) -> _Row:
    if first is None:
        return second
    if first.window is None or second.window is None:
        return _Row(None, unit=False)
    return _Row(first.window.union(second.window), unit=False)


def shares(structure: Structure) -> Mapping[str, float]:
    """MFLOP per example of each layer's rows and of the forward pass, by name."""
    found = floor(structure)
    parts = {layer.name: layer.rows * layer.flops / 1e6 for layer in found.layers}
    return {**parts, "forward": found.forward / 1e6}
