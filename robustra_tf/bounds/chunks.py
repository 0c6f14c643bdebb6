"""A loop over slices of the rows that keeps one slice in memory at a time, in the gradient too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


def tensors_of(nest: Any) -> tuple[list[tf.Tensor], Callable[[Sequence[tf.Tensor]], Any]]:
    """The tensors of a nest, and what puts others in their places; None stays where it is."""
    leaves = tf.nest.flatten(nest)
    places = [i for i, leaf in enumerate(leaves) if leaf is not None]

    def pack(tensors: Sequence[tf.Tensor]) -> Any:
        filled: list[tf.Tensor | None] = [None] * len(leaves)
        for place, tensor in zip(places, tensors, strict=True):
            filled[place] = tensor
        return tf.nest.pack_sequence_as(nest, filled)

    return [leaves[i] for i in places], pack


def map_recomputed(
    function: Callable[[tf.Tensor, Any], tf.Tensor], count: int | tf.Tensor, arguments: Any
) -> tf.Tensor:
    """`[function(i, arguments) for i in range(count)]` along a new first axis, or joined.

    The gradient calls `function` again, slice by slice, instead of keeping what each slice
    computed: a third more arithmetic for `1 / count` of the memory.

    Args:
      function: a pure function of the slice's number and of the tensors in `arguments`; it must not
        close over tensors that a gradient is wanted for.
      count: how many slices there are. Where it is a tensor, slices may differ in length.
      arguments: a nest of floating-point tensors and None.

    Returns:
      The results stacked where `count` is a number, joined along their first axis where it is a
      tensor.
    """
    flat, pack = tensors_of(arguments)
    joined = tf.is_tensor(count)
    dtype = flat[0].dtype

    def piece(i: tf.Tensor, tensors: list[tf.Tensor]) -> tf.Tensor:
        return function(i, pack(tensors))

    @tf.custom_gradient
    def run(*tensors: tf.Tensor) -> Any:
        results = tf.TensorArray(dtype, count, infer_shape=not joined)
        ends = tf.TensorArray(tf.int32, count, element_shape=())

        def step(i, results, ends):
            result = piece(i, list(tensors))
            return i + 1, results.write(i, result), ends.write(i, tf.shape(result)[0])

        _, results, ends = tf.while_loop(
            lambda i, *_: i < count,
            step,
            (tf.constant(0), results, ends),
            parallel_iterations=1,
        )
        bounds = tf.cumsum(tf.concat([[0], ends.stack()], 0)) if joined else None

        def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
            def add(i: tf.Tensor, totals: list[tf.Tensor]) -> Any:
                with tf.GradientTape() as tape:
                    tape.watch(tensors)
                    result = piece(i, list(tensors))
                part = upstream[i] if bounds is None else upstream[bounds[i] : bounds[i + 1]]
                parts = tape.gradient(result, tensors, part, tf.UnconnectedGradients.ZERO)
                return i + 1, [t + p for t, p in zip(totals, parts, strict=True)]

            zeros = [tf.zeros_like(t) for t in tensors]
            return tf.while_loop(
                lambda i, _: i < count, add, (tf.constant(0), zeros), parallel_iterations=1
            )[1]

        return results.concat() if joined else results.stack(), gradient

    return run(*flat)
