"""Values whose gradient is computed in another way than they themselves."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

#: The longest table whose gradient is added up by a matrix product.
SHORT = 128


def instead(computed: tf.Tensor, known: tf.Tensor) -> tf.Tensor:
    """`known`, the value of `computed`, with the gradient of `computed`, which need not be run.

    A compiled function leaves out operations whose value nobody reads.
    """

    @tf.custom_gradient
    def run(computed: tf.Tensor) -> Any:
        return tf.ensure_shape(known, computed.shape), lambda upstream: upstream

    return run(computed)


def taken(table: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """`table[index]` for an `index` [k] in any order.

    Its gradient adds up the parts of each entry by a matrix product where the table is short;
    TensorFlow's own adds them one after the other.
    """
    count = table.shape[0]

    @tf.custom_gradient
    def run(table: tf.Tensor, index: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
            flat = tf.reshape(upstream, (-1, math.prod(table.shape[1:])))
            if count <= SHORT:
                which = tf.one_hot(index, count, dtype=flat.dtype)
                sums = tf.matmul(which, flat, transpose_a=True)
            else:
                sums = tf.math.unsorted_segment_sum(flat, index, count)
            return tf.reshape(sums, table.shape), None

        return tf.gather(table, index), gradient

    return run(table, index)
