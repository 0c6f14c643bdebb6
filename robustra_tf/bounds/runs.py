"""Runs of nodes that rows pass, spelled out or by calls.

The rows of the k-th of K ReLUs pass k - 1 others, so that a graph that spells every passage out
grows with the square of K, and so does the time to trace and to optimise it. Where K is large, a
run of 1, 2, 4, ... ReLUs is a function, traced once for all runs that are alike, and long runs call
their halves: the rows' way to the image is one call for each binary digit of k.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, cast

import tensorflow as tf

from robustra_tf.bounds.chunks import tensors_of
from robustra_tf.bounds.frames import Chosen, Every, Frame
from robustra_tf.bounds.passing import (
    absolute_sum,
    added,
    past_relu,
    pays_as_matrix,
    settled,
    shared,
    through,
    window_matrix,
)
from robustra_tf.bounds.relu import Relaxation
from robustra_tf.bounds.rows import Rows, WholeRows, WindowRows
from robustra_tf.graph.graph import Node, Structure
from robustra_tf.graph.ops import Op, Relu
from robustra_tf.graph.spatial import Windowed

#: ReLUs of a network up to which every passage is spelled out: the graph is small, and is optimised
#: as a whole.
SHALLOW = 10
#: ReLUs of a run up to which its function spells them out: fewer calls in a step.
SPELLED = 2


class Passage(Protocol):
    """A relaxation of a ReLU whose slopes depend on the signs of the rows, such as a `Strip`."""

    def past(self, rows: Rows, frame: Frame) -> tuple[Rows, tf.Tensor]:
        """The rows on the ReLU's input, and what each row is charged."""
        ...


#: For nodes of a run, and for some before it, the coefficients that are still to be followed.
Pending = dict[int, Rows]
#: How rows pass a ReLU.
ReluWay = Relaxation | Passage
#: Of every node of a run: its weights, or a ReLU's way; None of a ReLU that no rows meet.
Parameters = Sequence[tuple[tf.Tensor, ...] | ReluWay | None]


#: (number of a ReLU, the rows that it leaves) -> the rows to go on with.
Visit = Callable[[int, Rows], Rows]


def unchanged(at: int, rows: Rows) -> Rows:
    """The visit that does nothing."""
    del at
    return rows


def pays_as_calls(structure: Structure) -> bool:
    """Whether rows pass the ReLUs of a network by calls."""
    return len(structure.relus) > SHALLOW


@dataclasses.dataclass(frozen=True)
class Run:
    """Consecutive nodes of a network, numbered from 1; 0, -1, ... are those before them.

    Attributes:
      nodes: their operations, with inputs in these numbers.
      alone: the ReLUs that are the only readers of a node of the run.
    """

    nodes: tuple[Node, ...]
    alone: frozenset[int]

    @functools.cached_property
    def relus(self) -> tuple[int, ...]:
        """The numbers of the ReLUs."""
        return tuple(i for i, node in enumerate(self.nodes, 1) if isinstance(node.op, Relu))

    def part(self, low: int, high: int) -> Run:
        """Nodes `low + 1` to `high`."""
        nodes = tuple(Node(n.op, tuple(i - low for i in n.inputs)) for n in self.nodes[low:high])
        inner = (i - low for i in self.alone if low < i <= high)
        return Run(nodes, frozenset(i for i in inner if nodes[i - 1].inputs[0] > 0))

    @property
    def digits(self) -> Iterator[tuple[int, int]]:
        """(low, high) of parts that end at a ReLU: of 2^i ReLUs, for the binary digits, upward."""
        left = len(self.relus)
        ends = (0, *self.relus)
        if ends[-1] < len(self.nodes):
            yield ends[-1], len(self.nodes)
        while left:
            count = left & -left
            yield ends[left - count], ends[left]
            left -= count

    @property
    def halves(self) -> Iterator[tuple[int, int]]:
        """(low, high) of two parts with as many ReLUs each."""
        middle = self.relus[len(self.relus) // 2 - 1]
        return iter(((middle, len(self.nodes)), (0, middle)))


@functools.lru_cache(maxsize=64)
def whole_run(structure: Structure) -> Run:
    """All nodes but the input."""
    below = ((i, structure.nodes[i].inputs[0]) for i in structure.relus)
    alone = frozenset(i for i, source in below if len(structure.consumers[source]) == 1)
    return Run(structure.nodes[1:], alone).part(0, len(structure.nodes) - 1)


def spelled_out(
    run: Run, parameters: Parameters, pending: Pending, frame: Frame, visit: Visit = unchanged
) -> tuple[Pending, list[tf.Tensor]]:
    """The rows before the run from those on its nodes, and what each ReLU charges.

    `visit` sees the rows that a ReLU leaves, and its number, and returns those to go on with.
    """
    pending, charges = dict(pending), []
    for at in range(len(run.nodes), 0, -1):
        if at not in pending:
            continue
        node, given, here = run.nodes[at - 1], parameters[at - 1], pending.pop(at)
        if not isinstance(node.op, Relu):
            here = through(node.affine, _weights(given), here, frame)
        elif isinstance(given, Relaxation):
            relaxation, fused = given.full, None
            if at in run.alone and shared(here, frame):
                below = node.inputs[0] - 1
                own = _weights(parameters[below])
                fused = _fused(here, frame, relaxation, run.nodes[below].op, own)
            if fused is not None:
                node, (here, charge) = run.nodes[below], fused
            else:
                here, charge = past_relu(here, frame, relaxation, functools.partial(visit, at))
            charges.append(charge)
        else:
            # Rows meet no ReLU whose way past is left open.
            here, charge = cast(Passage, given).past(here, frame)
            charges.append(charge)
        here = settled(here, frame)
        for source in node.inputs:
            pending[source] = added(pending.get(source), here, frame)
    return pending, charges


def _weights(given: tuple[tf.Tensor, ...] | ReluWay | None) -> tuple[tf.Tensor, ...]:
    """The parameters of an affine node: it has none but weights."""
    return cast("tuple[tf.Tensor, ...]", given)


def _fused(
    rows: Rows,
    frame: Frame,
    relaxation: Relaxation,
    op: Op,
    arguments: tuple[tf.Tensor, ...],
) -> tuple[WindowRows, tf.Tensor] | None:
    """Slopes and a convolution in one matrix product, where the rows are the same everywhere.

    With `k` the shared row and `S` the matrix of the transposed convolution on one window,
    `S^T (d k)` is linear in the slopes `d`: `[n positions, taps] @ [taps, rows * pixels]`, one such
    product for each strip of pixel rows. The products multiply by some zeros of `S`, but they are
    large, where convolutions would be many thousand small ones.
    """
    if not isinstance(rows, WindowRows) or not isinstance(op, Windowed):
        return None
    if rows.values.shape[:2] != (1, 1) or not pays_as_matrix(rows.window, op):
        return None
    slope, error = frame.align(rows, relaxation.slope, relaxation.error)
    charge = absolute_sum(rows, frame, error)
    window, (height, width) = rows.window.through(op), rows.window.size
    reach = window_matrix(rows.window, op, arguments, rows.values.dtype)
    count, taps = rows.values.shape[2], width * op.filters
    reach = tf.reshape(reach, (height, taps, 1, window.size[0], -1))
    row = tf.reshape(rows.values, (count, height, taps))
    row = tf.transpose(row, (1, 2, 0))[..., None, None]
    slope = tf.reshape(slope, (-1, height, taps))
    # A strip of pixel rows is reached from a few rows of the window only: leave out the rest.
    strips = []
    for top in range(0, window.size[0], op.strides[0]):
        bottom = min(top + op.strides[0], window.size[0])
        first = max(0, -(-(top - op.size[0] + 1) // op.strides[0]))
        last = min(height, (bottom - 1) // op.strides[0] + 1)
        product = row[first:last] * tf.slice(
            reach, (first, 0, 0, top, 0), (last - first, -1, -1, bottom - top, -1)
        )
        product = tf.reshape(product, ((last - first) * taps, -1))
        part = tf.slice(slope, (0, first, 0), (-1, last - first, -1))
        strip = tf.reshape(part, (-1, (last - first) * taps)) @ product
        shape = (-1, rows.window.positions, count, bottom - top, window.size[1], op.shape[2])
        strips.append(tf.reshape(strip, shape))
    values = tf.concat(strips, 3)
    return WindowRows(values, window, clean=False, strips=tuple(strips)), charge


def by_calls(
    run: Run,
    parameters: Parameters,
    pending: Pending,
    frame: Frame,
    parts: Iterator[tuple[int, int]],
) -> tuple[Pending, list[tf.Tensor]]:
    """As `spelled_out`, by a call for each of `parts`, which are the run together."""
    charges = []
    for low, high in parts:
        shifted = {at - low: rows for at, rows in pending.items()}
        shifted, found = _called(run.part(low, high), parameters[low:high], shifted, frame)
        pending = {at + low: rows for at, rows in shifted.items()}
        charges += found
    return pending, charges


def _called(
    run: Run, parameters: Parameters, pending: Pending, frame: Frame
) -> tuple[Pending, list[tf.Tensor]]:
    """As `spelled_out`, by a function that runs, rows and shapes that are alike share."""
    read = {source for node in run.nodes for source in node.inputs}
    taken = {at: pending[at] for at in sorted(pending) if at > 0 or at in read}
    if not any(at > 0 for at in taken):
        return pending, []
    picked = (frame.example, frame.position) if isinstance(frame, Chosen) else ()
    values = tuple(rows.values for rows in taken.values())
    nest = (values, picked, tuple(parameters))
    present = tf.nest.map_structure(lambda leaf: leaf is not None, nest)
    # How many rows there are is left open, where one axis counts them and nothing else.
    axes = [_row_axis(rows, frame) for rows in taken.values()] + [0] * len(picked)
    flat, _ = tensors_of(nest)
    axes += [None] * (len(flat) - len(axes))
    specs = tuple(_spec(tensor, axis) for tensor, axis in zip(flat, axes, strict=True))
    kinds = tuple((at, rows.with_values(None)) for at, rows in taken.items())
    function, left = _function(run, kinds, present, specs)
    results = function(*flat)
    passed = {at: rows for at, rows in pending.items() if at not in taken}
    count = _row_count(next(iter(taken.values())), frame)
    for (at, kind), found in zip(left, results, strict=False):
        axis = _row_axis(kind, frame)
        if axis is not None:
            found.set_shape((*(None,) * axis, count, *found.shape[axis + 1 :]))
        passed[at] = kind.with_values(found)
    return passed, results[len(left) :]


def _row_axis(rows: Rows, frame: Frame) -> int | None:
    if isinstance(frame, Chosen):
        return 0
    return 1 if isinstance(rows, WholeRows) else None


def _row_count(rows: Rows, frame: Frame) -> int | None:
    axis = _row_axis(rows, frame)
    if axis is None and isinstance(rows, WindowRows):
        return rows.values.shape[2] * rows.window.positions
    return rows.values.shape[axis]


def _spec(tensor: tf.Tensor, open_axis: int | None) -> tf.TensorSpec:
    shape = (None if axis == open_axis else size for axis, size in enumerate(tensor.shape))
    return tf.TensorSpec(tuple(shape), tensor.dtype)


@functools.lru_cache(maxsize=512)
def _function(
    run: Run, kinds: tuple[tuple[int, Rows], ...], present: Any, specs: tuple[tf.TensorSpec, ...]
) -> tuple[Callable[..., list[tf.Tensor]], list[tuple[int, Rows]]]:
    """A run as a function of flat tensors, and, once it was traced, the kinds of rows it leaves.

    `present` has the nest of its arguments, False where one is None.
    """
    left: list[tuple[int, Rows]] = []
    _, pack = tensors_of(tf.nest.map_structure(lambda there: there or None, present))

    # Not to be written out where it is called: the graph would be large again.
    @tf.function(
        input_signature=specs, autograph=False, experimental_attributes={"_noinline": True}
    )
    def passed(*tensors: tf.Tensor) -> list[tf.Tensor]:
        values, picked, parameters = pack(tensors)
        frame = Chosen(*picked) if picked else Every()
        pending = {at: kind.with_values(v) for (at, kind), v in zip(kinds, values, strict=True)}
        if len(run.relus) <= SPELLED:
            pending, charges = spelled_out(run, parameters, pending, frame)
        else:
            pending, charges = by_calls(run, parameters, pending, frame, run.halves)
        left[:] = [(at, rows.with_values(None)) for at, rows in pending.items()]
        return [rows.values for rows in pending.values()] + ([tf.add_n(charges)] if charges else [])

    return passed, left
