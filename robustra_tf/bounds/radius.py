"""The radii of a node's bounds: by intervals where these are exact, else by a row for each neuron.

Rows are computed in one of three ways, with a gradient that works on the rows alone through which
one passes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from robustra_tf.bounds.balls import Ball
from robustra_tf.bounds.chunks import tensors_of
from robustra_tf.bounds.cost import calls_dominate
from robustra_tf.bounds.dual import fuses, half_widths
from robustra_tf.bounds.layer_rows import Below, Kept, LayerRows, Radii
from robustra_tf.bounds.options import BoundOptions
from robustra_tf.bounds.relu import Relaxation, unstable
from robustra_tf.bounds.runs import pays_as_calls
from robustra_tf.graph.graph import Network, Structure
from robustra_tf.graph.ops import Add, Relu


@functools.lru_cache(maxsize=64)
def interval_exact(structure: Structure) -> frozenset[int]:
    """The affine nodes with at most one matrix between them and the image.

    Over the `linf` ball intervals equal the dual there: `|A B| = |A| |B|` when one of the two only
    scales, so a chain with a single proper matrix loses nothing to interval arithmetic.
    """
    matrices = {0: 0}
    for index, node in enumerate(structure.nodes[1:], start=1):
        if isinstance(node.op, Relu | Add) or node.inputs[0] not in matrices:
            continue
        matrices[index] = matrices[node.inputs[0]] + (not node.affine.diagonal)
    return frozenset(i for i, count in matrices.items() if count <= 1)


class Known(NamedTuple):
    """What is known of a node before its rows: its centre and its interval's half width."""

    centre: tf.Tensor
    width: tf.Tensor


def exact_radius(
    network: Network,
    ball: Ball,
    relaxations: dict[int, Relaxation],
    index: int,
    options: BoundOptions,
) -> tf.Tensor:
    """The radius of every neuron of a node, [n, *shape], for the given relaxations below it.

    By intervals where they equal the dual, else by the rows of all neurons.
    """
    if ball.norm == "linf" and index in interval_exact(network.structure):
        node = network.structure.nodes[index]
        widths = [
            ball.half_widths if i == 0 else exact_radius(network, ball, {}, i, options)
            for i in node.inputs
        ]
        return half_widths(node, network.weights, *widths)
    every = dataclasses.replace(options, rows="every")
    return row_radius(network, ball, relaxations, index, None, every)


def row_radius(
    network: Network,
    ball: Ball,
    relaxations: dict[int, Relaxation],
    index: int,
    known: Known | None,
    options: BoundOptions,
) -> tf.Tensor:
    """The radius of every neuron of a node, [n, *shape], in the way that `options.rows` says.

    Where rows may be skipped, `known` has to be given: there the radius is the interval's. In deep
    networks the rows of small layers are picked out whatever `rows="auto"` would decide: they take
    no time to speak of, a second way to trace does.
    """
    structure, rows = network.structure, options.rows
    calls = pays_as_calls(structure)
    if rows == "auto" and calls and calls_dominate(structure, index):
        rows = "needed"
    batch, itemsize = ball.centre.shape[0], ball.centre.dtype.size
    layer = LayerRows(structure, index, ball.norm, batch, options.budget, itemsize)
    # A copy: the caller goes on filling its own while a gradient may still need this one.
    relaxations = {at: each.lean if calls else each for at, each in relaxations.items()}
    # The first weight stays in any case: rows have its dtype.
    met = {0} | structure.coefficients(index)
    weights = [weight if i in met else None for i, weight in enumerate(network.weights)]
    below = Below(network.with_weights(weights), *ball[:2], ball.room, relaxations)
    if rows == "every" or known is None:
        return layer.every(below).values
    if rows == "auto" and fuses(structure, index):
        return _with_sparse_gradient(layer, below, layer.every, True)
    # A stable neuron's bounds are used by nothing but its sign: no gradient passes through them.
    centre, width = map(tf.stop_gradient, known)
    needed = layer.listed(unstable(centre - width, centre + width))
    if rows == "needed":
        return _with_sparse_gradient(
            layer, below, lambda b: Radii(layer.chosen(b, needed, width, layer.total), {}), False
        )
    many = tf.logical_not(layer.few(needed, centre))

    def either(below: Below) -> Radii:
        def chosen(kept: Kept) -> Radii:
            none = {at: tf.zeros((0, *t.shape[1:]), t.dtype) for at, t in kept.items()}
            return Radii(layer.chosen(below, needed, width, layer.most_chosen), none)

        return _cond(many, lambda: layer.every(below), chosen)

    return _with_sparse_gradient(layer, below, either, many)


def _cond(
    predicate: tf.Tensor, first: Callable[[], Radii], second: Callable[[Kept], Radii]
) -> Radii:
    """`first()`, or `second` of the shapes of what the first keeps, of which it has none.

    TensorFlow traces both branches, the first one before the other. Eagerly it takes one alone, and
    nothing has to be alike.
    """
    kept: dict[int, tf.TensorSpec] = {}

    def traced() -> Radii:
        found = first()
        kept.update((at, tf.TensorSpec(t.shape, t.dtype)) for at, t in found.kept.items())
        return found

    return tf.cond(predicate, traced, lambda: second(kept))


class _Arguments(NamedTuple):
    """The tensors of a nest, and what puts others in their places."""

    tensors: Sequence[tf.Tensor]
    pack: Callable[[Sequence[tf.Tensor]], Any]

    def pull(self, function: Callable[[Any], tf.Tensor], upstream: tf.Tensor) -> list[tf.Tensor]:
        """The gradient of `function` of the nest in every tensor."""
        copies = [tf.identity(t) for t in self.tensors]
        with tf.GradientTape() as tape:
            tape.watch(copies)
            result = function(self.pack(copies))
        parts = tape.gradient(result, copies, upstream, tf.UnconnectedGradients.ZERO)
        return [tf.convert_to_tensor(part) for part in parts]


def _with_sparse_gradient(
    layer: LayerRows,
    below: Below,
    radii: Callable[[Below], Radii],
    many: tf.Tensor | bool,
) -> tf.Tensor:
    """`radii(below).values`, with a gradient that skips idle rows.

    A neuron found stable passes no gradient to its radius, nor does one that nothing depends on:
    the gradient works on the rows of the others alone. Rows are kept of `layer.every`, if that is
    the way that was gone, as `many` says; what is not kept is computed again.
    """
    flat, pack = tensors_of(below)

    @tf.custom_gradient
    def run(*tensors: tf.Tensor) -> Any:
        found, arguments = radii(pack(tensors)), _Arguments(tensors, pack)

        def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
            return _sparse_gradient(layer, arguments, found.kept, many, upstream)

        return found.values, gradient

    return run(*flat)


def _sparse_gradient(
    layer: LayerRows,
    arguments: _Arguments,
    kept: Kept,
    many: tf.Tensor | bool,
    upstream: tf.Tensor,
) -> list[tf.Tensor]:
    needed = layer.listed(upstream != 0)

    def chosen(kept: Kept) -> list[tf.Tensor]:
        # The row that `rows_of` puts first is no neuron's: it has no part in the gradient.
        wanted = tf.gather_nd(tf.reshape(upstream, (-1, layer.neurons)), needed)
        rows = functools.partial(layer.rows_of, needed=needed, most=layer.most_chosen, kept=kept)
        return arguments.pull(rows, tf.pad(wanted, ((1, 0),)))

    def some() -> list[tf.Tensor]:
        if not kept:
            return chosen({})
        return tf.cond(many, lambda: chosen(kept), lambda: chosen({}))

    def every() -> list[tf.Tensor]:
        return arguments.pull(lambda below: layer.every(below).values, upstream)

    return tf.cond(layer.few(needed, upstream), some, every)
