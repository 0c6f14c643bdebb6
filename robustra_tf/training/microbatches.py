"""A batch worked on piece by piece, so that memory does not grow with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from robustra_tf.bounds.cost import example_bytes
from robustra_tf.bounds.interval import interval_margins
from robustra_tf.bounds.projection import vector_bytes
from robustra_tf.graph.graph import Network
from robustra_tf.objective.batch import Batch, Loss
from robustra_tf.objective.interval_losses import BOX, Spread, regulariser
from robustra_tf.training.problem import Problem, solve

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
    def of(cls, x: tf.Tensor, together: int) -> Pieces:
        """The pieces, of at most `together` examples each, of images `x` [n, ...]."""
        batch = tf.shape(x)[0] if x.shape[0] is None else x.shape[0]
        count = -(-batch // together)
        single = together >= UNLIMITED if x.shape[0] is None else count == 1
        size = -(-batch // count)  # Equal pieces leave less to fill up.
        index = tf.range(count * size)
        share = tf.cast(index < batch, x.dtype) / tf.cast(batch, x.dtype)
        index = tf.reshape(tf.minimum(index, batch - 1), (count, size))
        return cls(index, tf.reshape(share, (count, size)), count, single)


class BatchGradient(NamedTuple):
    """The gradient of a batch's mean loss in every weight, and the mean of every measurement."""

    weights: list[tf.Tensor]
    measured: dict[str, tf.Tensor]


def gradients(
    problem: Problem, network: Network, reference: Network | None, batch: Batch, together: int
) -> BatchGradient:
    """The gradient of the mean loss in every weight, and the mean of every measurement.

    The batch is worked on `together` examples at a time and the gradients are added up, so that
    memory does not grow with the batch; a last, smaller piece is filled up by examples of weight 0.
    The result does not depend on `together`: random starts belong to their examples, random vectors
    are shared by all pieces, and where a regulariser looks at the whole batch, every piece follows
    the chain rule through what it adds to the regulariser's arguments.

    Args:
      problem: what is minimised.
      network: the one that is trained.
      reference: its reference, or None.
      batch: as `problem.batch` gives it.
      together: examples at a time.
    """
    work = _Work(problem, network, reference, batch, Pieces.of(batch.x, together))
    if work.pieces.single:
        return work.gradient(0)
    mean = work.mean_spread() if problem.regularised else None
    zeros = [tf.zeros_like(w) for w in network.weights]
    nothing = BatchGradient(zeros, dict.fromkeys(problem.measurements, tf.zeros(())))
    return work.total(lambda i: work.gradient(i, mean), nothing)


@dataclasses.dataclass(frozen=True, eq=False)
class _Work:
    """The gradient of a batch in pieces, by their numbers."""

    problem: Problem
    network: Network
    reference: Network | None
    batch: Batch
    pieces: Pieces

    def gradient(self, i: tf.Tensor | int, mean_spread: tf.Tensor | None = None) -> BatchGradient:
        """What piece `i` adds; `mean_spread` is the batch's, where it is more than the piece."""
        examples = _examples(self.problem, self.reference, self.batch, self._at(i))
        share, weights = tf.gather(self.pieces.share, i), list(self.network.weights)
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss = examples.loss(self.network.with_weights(weights))
            each, total = loss.each, tf.reduce_sum(loss.each * share)
            if self.problem.regularised:
                own = tf.tensordot(share, loss.spread, 1)
                value, slope = _tangent(own if mean_spread is None else mean_spread)
                total += loss.weight * tf.reduce_sum(slope * own)
                each += loss.weight * value
        found = tape.gradient(total, weights, unconnected_gradients="zero")
        measured = {**loss.measured, "loss": tf.cast(each, tf.float32)}
        share = tf.cast(share, tf.float32)
        return BatchGradient(found, {k: tf.reduce_sum(v * share) for k, v in measured.items()})

    def mean_spread(self) -> tf.Tensor:
        """The regulariser's argument, of the whole batch: [ReLU layers, numbers]."""
        x, structure = self.batch.x, self.problem.structure
        shape = (len(structure.relus), len(Spread._fields))

        def added(i: tf.Tensor) -> tf.Tensor:
            examples = _examples(self.problem, self.reference, self.batch, self._at(i))
            share = tf.gather(self.pieces.share, i)
            return tf.tensordot(share, examples.loss(self.network).spread, 1)

        # Once the regulariser has faded, its argument does not matter.
        return tf.cond(
            self.batch.eps < self.problem.losses.eps_end,
            lambda: self.total(added, tf.zeros(shape, x.dtype)),
            lambda: tf.ones(shape, x.dtype),
        )

    def total(self, work: Callable[[tf.Tensor], Any], zeros: Any) -> Any:
        """The sum of `work` over all pieces, a nest as `zeros` is.

        Starting from zeros, the work is traced once, not once before the loop and once within.
        """
        return tf.while_loop(
            lambda i, _: i < self.pieces.count,
            lambda i, total: (i + 1, tf.nest.map_structure(tf.add, total, work(i))),
            (tf.constant(0), zeros),
            parallel_iterations=1,
            maximum_iterations=self.pieces.count,
        )[1]

    def _at(self, i: tf.Tensor | int) -> tf.Tensor:
        return tf.gather(self.pieces.index, i)


def _tangent(mean: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The regulariser at the mean of a batch's spread, and its slope there: both constants."""
    mean = tf.stop_gradient(mean)
    with tf.GradientTape() as tape:
        tape.watch(mean)
        value = regulariser(mean)
    # Of a network without ReLUs it is a constant.
    slope = tape.gradient(value, mean, unconnected_gradients="zero")
    return value, tf.stop_gradient(slope)


class _Examples(NamedTuple):
    """Some examples of a batch, with the reference's dual on them."""

    problem: Problem
    reference: Any
    batch: Batch

    def loss(self, network: Network) -> Loss:
        return solve(self.problem, network, self.reference, self.batch)


def _examples(
    problem: Problem, reference: Network | None, batch: Batch, index: tf.Tensor
) -> _Examples:
    """The examples at `index` of a batch.

    No tape should watch this: nothing flows back to the reference.
    """
    here, dual = batch.take(index), None
    if reference is not None:
        dual = problem.dual(reference, here, 1)
        # One network after the other: their rows are not held at the same time.
        with tf.control_dependencies([dual.base, dual.rows]):
            here = here._replace(x=tf.identity(here.x))
    return _Examples(problem, dual, here)


class Evaluation(NamedTuple):
    """What a method's bound says of a batch.

    Attributes:
      loss: of every example, [n], without a regulariser, which has faded at the full radius.
      clean_error: of every example, [n].
      upper: bounds of `f_t - f_y` over the whole ball, [n, classes].
    """

    loss: tf.Tensor
    clean_error: tf.Tensor
    upper: tf.Tensor


def evaluated(
    problem: Problem, network: Network, reference: Network | None, batch: Batch, together: int
) -> Evaluation:
    """The losses, the clean errors and the bounds of a batch; no gradient is taken.

    What `natural` has trained, without a bound of its own, is bounded by intervals; what
    projections have, by exact inner bounds.

    Args: as `gradients` takes them.
    """
    exact = dataclasses.replace(problem.bounds, projection=0)
    problem = dataclasses.replace(problem, bounds=exact)
    pieces = Pieces.of(batch.x, together)

    def piece(index: tf.Tensor) -> Evaluation:
        examples = _examples(problem, reference, batch, index)
        found, here = examples.loss(network), examples.batch
        upper = found.upper
        if upper is None:
            region = problem.bounds.ball(here.x, here.eps, BOX)
            upper = interval_margins(network, region, here.y).upper
        return Evaluation(found.each, found.measured["clean_error"], upper)

    if pieces.single:
        return piece(pieces.index[0])
    dtype = batch.x.dtype
    kinds = Evaluation(dtype, tf.float32, dtype)
    found = tf.map_fn(piece, pieces.index, fn_output_signature=kinds, parallel_iterations=1)
    count, shapes = tf.shape(batch.x)[0], Evaluation((), (), network.structure.output_shape)
    return Evaluation(
        *(tf.reshape(part, (-1, *shape))[:count] for part, shape in zip(found, shapes, strict=True))
    )
