"""Medians of absolute values, for whole layers at a time."""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf

#: Up to so many values a median is taken by a network of comparisons, whose graph grows with their
#: number times the square of its logarithm.
_MOST_COMPARED = 100


def absolute_median(values: tf.Tensor) -> tf.Tensor:
    """The median of the absolute values along the second axis: [n, k, ...] to [n, ...].

    Of an even number, the mean of the two in the middle. The gradient is theirs alone.
    """
    count = values.shape[1]
    middle = sorted({(count - 1) // 2, count // 2})

    @tf.custom_gradient
    def run(values: tf.Tensor) -> Any:
        ordered = _ranked(tf.abs(values), middle)

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            absolute, share = tf.abs(values), upstream[:, None] / len(middle)
            chosen = [tf.where(absolute == r[:, None], share, 0.0) for r in ordered]
            return tf.sign(values) * functools.reduce(tf.add, chosen)

        return tf.add_n(ordered) / len(middle), gradient

    return run(values)


def _ranked(values: tf.Tensor, ranks: list[int]) -> list[tf.Tensor]:
    """The entries of the given ranks along the second axis, the smallest being rank 0."""
    count = values.shape[1]
    if count > _MOST_COMPARED:
        last = [0, *range(2, values.shape.rank), 1]
        ordered = tf.sort(tf.transpose(values, last), axis=-1)
        return [ordered[..., rank] for rank in ranks]
    # Whole layers are compared at a time: a tenth of the time of sorting neuron by neuron.
    wires = tf.unstack(values, axis=1)
    for low, high, keeps_low, keeps_high in _comparisons(count, tuple(ranks)):
        first, second = wires[low], wires[high]
        wires[low] = tf.minimum(first, second) if keeps_low else None
        wires[high] = tf.maximum(first, second) if keeps_high else None
    return [wires[rank] for rank in ranks]


@functools.lru_cache(maxsize=16)
def _comparisons(count: int, ranks: tuple[int, ...]) -> tuple[tuple[int, int, bool, bool], ...]:
    """Batcher's odd-even merge sort of `count` wires, without what the wires `ranks` do not need.

    Each comparison is (low wire, high wire, whether the smaller one and the larger one are needed).
    """
    pairs, needed, kept = [], set(ranks), []
    for run in (2**i for i in range((count - 1).bit_length())):
        for step in (run >> i for i in range(run.bit_length())):
            for start in range(step % run, count - step, 2 * step):
                for low in range(start, start + min(step, count - start - step)):
                    if low // (2 * run) == (low + step) // (2 * run):
                        pairs.append((low, low + step))
    for low, high in reversed(pairs):
        if low in needed or high in needed:
            kept.append((low, high, low in needed, high in needed))
            needed |= {low, high}
    return tuple(reversed(kept))
