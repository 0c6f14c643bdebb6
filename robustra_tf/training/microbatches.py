"""A batch worked on piece by piece, so that memory does not grow with it, or by several devices."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from robustra_tf.bounds.interval import interval_margins
from robustra_tf.graph.graph import Network
from robustra_tf.objective.batch import Batch, Loss
from robustra_tf.objective.interval_losses import BOX, Spread, regulariser
from robustra_tf.training.batch_pieces import Pieces
from robustra_tf.training.problem import Problem, solve


class BatchGradient(NamedTuple):
    """The gradient of a batch's mean loss in every weight, and the mean of every measurement."""

    weights: list[tf.Tensor]
    measured: dict[str, tf.Tensor]


def gradients(
    problem: Problem,
    network: Network,
    reference: Network | None,
    batch: Batch,
    together: int,
    devices: Sequence[str] = (),
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
      devices: each takes an equal share of the batch, in pieces of its own; what they add up to
        is added where this is called. Without any all is done there.
    """
    pieces = Pieces.of(batch.x, together, max(len(devices), 1))
    work = _Work(problem, network, reference, batch, pieces)
    if pieces.single:
        return work.gradient(0)
    shards = list(work.shards(devices)) if len(devices) > 1 else [(contextlib.nullcontext, work)]
    mean = None
    if problem.regularised:
        mean = _total(shards, _Work.mean_spread)
    return _total(shards, lambda shard: shard.gradients(mean))


def _total(shards: Sequence[_Shard], work: Callable[[_Work], Any]) -> Any:
    """The sum of what each of several devices comes to, a nest."""
    parts = []
    for device, shard in shards:
        with device():
            parts.append(work(shard))
    return functools.reduce(functools.partial(tf.nest.map_structure, tf.add), parts)


@dataclasses.dataclass(frozen=True, eq=False)
class _Work:
    """The gradient of a batch in pieces, by their numbers."""

    problem: Problem
    network: Network
    reference: Network | None
    batch: Batch
    pieces: Pieces

    def shards(self, devices: Sequence[str]) -> Iterator[_Shard]:
        """The work of each device, which has no examples but its own, and the weights once."""
        size = len(devices)
        flat = tf.reshape(self.pieces.index, (size, -1))
        for place, device in enumerate(devices):
            mine = self.batch.take(flat[place])
            with tf.device(device):
                # Branches and loops would each fetch for themselves what is not there.
                shard = _Work(
                    self.problem,
                    _copied(self.network),
                    _copied(self.reference),
                    _copied(mine),
                    self.pieces.part(place, size),
                )
            yield functools.partial(tf.device, device), shard

    def gradients(self, mean_spread: tf.Tensor | None) -> BatchGradient:
        """What all pieces add."""
        zeros = [tf.zeros_like(w) for w in self.network.weights]
        nothing = BatchGradient(zeros, dict.fromkeys(self.problem.measurements, tf.zeros(())))
        return self.total(lambda i: self.gradient(i, mean_spread), nothing)

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
        if self.pieces.single:
            return work(0)
        return tf.while_loop(
            lambda i, _: i < self.pieces.count,
            lambda i, total: (i + 1, tf.nest.map_structure(tf.add, total, work(i))),
            (tf.constant(0), zeros),
            parallel_iterations=1,
            maximum_iterations=self.pieces.count,
        )[1]

    def _at(self, i: tf.Tensor | int) -> tf.Tensor:
        return tf.gather(self.pieces.index, i)


def _copied(nest: Any) -> Any:
    """A copy of all tensors of a nest, where this is called."""
    return tf.nest.map_structure(lambda part: part if part is None else tf.identity(part), nest)


#: The device that works on a share of a batch, and the share.
_Shard = tuple[Callable[[], contextlib.AbstractContextManager], _Work]


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
