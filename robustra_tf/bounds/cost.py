"""What a backward pass takes, counted from the structure: numbers per row and slices that fit."""

from __future__ import annotations

import dataclasses
import functools
import math

from robustra_tf.bounds.window import Window
from robustra_tf.graph.graph import Structure
from robustra_tf.graph.ops import Add, Dense, Op, Relu, Reshape, Scale
from robustra_tf.graph.registry import PerOperation
from robustra_tf.graph.selection import Permute, Take
from robustra_tf.graph.spatial import Pad2D, Windowed
from robustra_tf.graph.spread import as_pair

#: Copies of a row that are alive at once: coefficients, their absolute values, their product with
#: the slopes, the padded input of the next convolution.
COPIES = 4
#: Coefficients of all rows of a node on one example, up to which arithmetic takes no time.
SMALL = 2**12
#: Copies of every row that a gradient keeps until the backward pass, as measured.
KEPT = 2


@dataclasses.dataclass(frozen=True)
class RowCost:
    """What the rows of one layer take on their way to the image.

    Attributes:
      rows: how many neurons the layer has.
      numbers: coefficients that one row holds, summed over all the nodes that it passes.
      widest: coefficients of one row where it is widest.
    """

    rows: int
    numbers: int
    widest: int


@functools.lru_cache(maxsize=256)
def row_cost(structure: Structure, index: int) -> RowCost:
    """Count the backward pass of the rows of node `index`, windows and all."""
    shape = structure.nodes[index].op.out_shape
    start = Window(shape[:2], shape[:2]) if len(shape) == 3 else None
    pending: dict[int, Window | None] = {index: start}
    numbers = widest = 0
    for at in range(index, 0, -1):
        if at not in pending:
            continue
        node, window = structure.nodes[at], pending.pop(at)
        op = node.op
        if window is not None:
            window = _before(window, op)
        held = _held(window, op.in_shape)
        numbers += held * (2 if isinstance(op, Relu) else 1)
        widest = max(widest, held)
        for source in node.inputs:
            other = pending.get(source, window)
            if source not in pending or other is None or window is None:
                pending[source] = None if source in pending else window
            else:
                pending[source] = other.union(window)
    return RowCost(math.prod(shape), numbers, widest)


def calls_dominate(structure: Structure, index: int) -> bool:
    """Whether the rows of a node are so few and short that operations cost more than arithmetic."""
    cost = row_cost(structure, index)
    return cost.rows * cost.widest <= SMALL


def _before(window: Window, op: Op) -> Window | None:
    found = window_before(op, window)
    return None if found is None or found.area >= math.prod(found.image) else found


#: `(op, window) -> Window | None`: the window on the input of an operation from that on its output;
#: None for all of it.
window_before = PerOperation("whose windows are known")


@window_before.of(Windowed)
def _(op: Windowed, window: Window) -> Window:
    return window.through(op)


@window_before.of(Pad2D)
def _(op: Pad2D, window: Window) -> Window:
    return window.before(op.padding, as_pair(op.shape[:2]))


@window_before.of(Take)
def _(op: Take, window: Window) -> Window | None:
    if op.axis == 2:
        return window
    return None if op.start is None else window.before(op.cut, as_pair(op.shape[:2]))


@window_before.of(Relu, Add, Scale)
def _(op: Op, window: Window) -> Window:
    return window


@window_before.of(Reshape, Dense, Permute)
def _(op: Op, window: Window) -> Window | None:
    same = op.in_shape == op.out_shape and not isinstance(op, Permute)
    return window if same else None


def _held(window: Window | None, shape: tuple[int, ...]) -> int:
    return math.prod(shape) if window is None else window.area * shape[-1]


def slices(structure: Structure, index: int, batch: int, budget: float, itemsize: int = 4) -> int:
    """Into how many equal slices of channels to cut the rows of a node, to fit `budget` bytes.

    The slices divide the channels evenly, so that all have one shape.
    """
    cost = row_cost(structure, index)
    channels = structure.nodes[index].op.out_shape[-1]
    bytes_per_channel = COPIES * cost.widest * cost.rows / channels * batch * itemsize
    most = max(1, int(budget / max(bytes_per_channel, 1.0)))
    fitting = [n for n in range(1, channels + 1) if channels % n == 0 and channels // n <= most]
    return fitting[0] if fitting else channels


def example_bytes(structure: Structure, inner: bool = True, itemsize: int = 4) -> int:
    """Bytes that one example needs for a step's gradient.

    The rows of inner layers, where there are any, are computed again for the gradient, one layer at
    a time; those of the margins are kept throughout.
    """
    costs = [row_cost(structure, structure.nodes[i].inputs[0]) for i in structure.relus]
    most = max((cost.rows * cost.numbers for cost in costs), default=0)
    margins = structure.output_shape[0] * row_cost(structure, len(structure.nodes) - 1).numbers
    return KEPT * itemsize * (most * inner + margins)
