"""How a batch is cut into pieces that fit into memory, and into shares of several devices."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from robustra_tf.bounds.cost import example_bytes
from robustra_tf.bounds.projection import vector_bytes
from robustra_tf.training.problem import Problem

#: Examples whose rows are worked on together. More fill memory, not the machine; fewer repeat the
#: many small operations on the weights alone, which take as long for one example as for all.
MOST_TOGETHER = 50
#: More examples than any batch has.
UNLIMITED = 2**31 - 1


def examples_together(problem: Problem, memory_mb: float, microbatch: int = 0) -> int:
    """How many examples of a batch are worked on at a time, at least 1.

    As many as fit `memory_mb`, at most `MOST_TOGETHER` with inner rows; without rows, all.

    Args:
      problem: what is computed for them.
      memory_mb: MiB that their rows may take.
      microbatch: at most so many; 0 for no limit of its own.
    """
    found = UNLIMITED
    if problem.method.bound == "dual":
        inner, projection = problem.bounds.inner != "interval", problem.bounds.projection
        needed = example_bytes(problem.structure, inner and not projection)
        if projection:
            needed += vector_bytes(problem.structure, projection)
        found = int(max(1, memory_mb * 2**20 // needed))
        found = min(MOST_TOGETHER, found) if inner else found
    return min(found, microbatch) if microbatch else found


class Pieces(NamedTuple):
    """A batch in equal pieces.

    The batch size may be unknown while a step is traced. The pieces' number and size are tensors
    then, and slices of rows within a piece are not planned: `together` alone bounds the memory.

    Attributes:
      index: the examples of every piece, [pieces, size], filled up by the last one.
      share: their shares of the batch's mean, 0 for what fills up, [pieces, size].
      count: how many pieces.
      single: whether it is one for certain.
    """

    index: tf.Tensor
    share: tf.Tensor
    count: tf.Tensor | int
    single: bool

    @classmethod
    def of(cls, x: tf.Tensor, together: int, devices: int = 1) -> Pieces:
        """The pieces, of at most `together` examples each, of images `x` [n, ...].

        Of several devices each has as many.
        """
        batch = tf.shape(x)[0] if x.shape[0] is None else x.shape[0]
        count = -(-batch // together)
        if devices > 1:
            count = devices * -(-count // devices)
        single = devices == 1 and (together >= UNLIMITED if x.shape[0] is None else count == 1)
        size = -(-batch // count)  # Equal pieces leave less to fill up.
        index = tf.range(count * size)
        share = tf.cast(index < batch, x.dtype) / tf.cast(batch, x.dtype)
        index = tf.reshape(tf.minimum(index, batch - 1), (count, size))
        return cls(index, tf.reshape(share, (count, size)), count, single)

    def part(self, which: int, count: int) -> Pieces:
        """One of `count` equal parts of them, whose examples are counted from its first."""
        rows = self.count // count
        share = self.share[which * rows : (which + 1) * rows]
        size = tf.shape(share)[1] if share.shape[1] is None else share.shape[1]
        index = tf.reshape(tf.range(rows * size), (rows, size))
        return Pieces(index, share, rows, isinstance(rows, int) and rows == 1)
