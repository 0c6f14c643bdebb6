"""A batch worked on piece by piece, so that memory does not grow with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from robustra_tf.bounds.balls import ball
from robustra_tf.bounds.cost import example_bytes
from robustra_tf.bounds.interval import interval_margins
from robustra_tf.bounds.projection import vector_bytes
from robustra_tf.objective.methods import BOX, LOSSES, Spread, regulariser
from robustra_tf.objective.problem import Problem, Seed, Solved, Weights, names, solve
from robustra_tf.settings import DUAL_METHODS

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
    if problem.method in DUAL_METHODS:
        inner = problem.inner != "interval"
        needed = example_bytes(problem.structure, inner and not problem.projection)
        if problem.projection:
            needed += vector_bytes(problem.structure, problem.projection)
        found = int(max(1, memory_mb * 2**20 // needed))
        found = min(MOST_TOGETHER, found) if inner else found
    return min(found, microbatch) if microbatch else found


def gradients(
    problem: Problem,
    weights: Weights,
    reference: Weights | None,
    x: tf.Tensor,
    y: tf.Tensor,
    eps: tf.Tensor,
    together: int,
    seed: Seed = (0, 0),
) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
    """The gradient of the mean loss in every weight, and the mean of every measurement.

    The batch is worked on `together` examples at a time and the gradients are added up, so that
    memory does not grow with the batch; a last, smaller piece is filled up by examples of weight 0.
    The result does not depend on `together`: random starts belong to their examples, and where a
    regulariser looks at the whole batch, every piece follows the chain rule through what it adds
    to the regulariser's arguments.

    Args:
      problem, weights, x, y, eps: as `solve` takes them.
      reference: the reference's weights, or None.
      together: examples at a time.
      seed: integers [2], of the attacks' random starts and of the random vectors, which all pieces
        share: equal seeds give equal losses.
    """
    index, share, pieces, alone = _split(x, together)
    weights, draw = list(weights), _drawn(problem, x, seed)
    regularised = problem.method in LOSSES and bool(problem.options.regulariser)

    def mean_of_spread(solved: Solved, i: tf.Tensor | int) -> tf.Tensor:
        return tf.tensordot(tf.gather(share, i), solved.spread, 1)

    def piece(i: tf.Tensor | int, whole: tf.Tensor | None = None):
        arguments = _piece(problem, reference, x, y, eps, draw, seed, tf.gather(index, i))
        part = tf.gather(share, i)
        with tf.GradientTape() as tape:
            tape.watch(weights)
            solved = solve(problem, weights, *arguments)
            loss, total = solved.loss, tf.reduce_sum(solved.loss * part)
            if regularised:
                mine = mean_of_spread(solved, i)
                value, slope = _tangent(mine if whole is None else whole)
                total += solved.weight * tf.reduce_sum(slope * mine)
                loss += solved.weight * value
        found = tape.gradient(total, weights, unconnected_gradients="zero")
        measured = solved.measured | {"loss": tf.cast(loss, tf.float32)}
        part = tf.cast(part, tf.float32)
        return found, {k: tf.reduce_sum(v * part) for k, v in measured.items()}

    if alone:
        return piece(0)

    def added(work: Callable, start: Any) -> Any:
        # Starting from zeros, the work is traced once, not once before the loop and once within.
        return tf.while_loop(
            lambda i, _: i < pieces,
            lambda i, total: (i + 1, tf.nest.map_structure(tf.add, total, work(i))),
            (tf.constant(0), start),
            parallel_iterations=1,
            maximum_iterations=pieces,
        )[1]

    def spread(i: tf.Tensor) -> tf.Tensor:
        arguments = _piece(problem, reference, x, y, eps, draw, seed, tf.gather(index, i))
        return mean_of_spread(solve(problem, weights, *arguments), i)

    whole = None
    if regularised:
        shape = (len(problem.structure.relus), len(Spread._fields))
        # Once it has faded, what it is a function of is of no account.
        whole = tf.cond(
            eps < problem.eps_end,
            lambda: added(spread, tf.zeros(shape, x.dtype)),
            lambda: tf.ones(shape, x.dtype),
        )
    nothing = ([tf.zeros_like(w) for w in weights], dict.fromkeys(names(problem), tf.zeros(())))
    return added(lambda i: piece(i, whole), nothing)


def _tangent(mean: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The regulariser at the mean of a batch's spread, and its slope there: both constants."""
    mean = tf.stop_gradient(mean)
    with tf.GradientTape() as tape:
        tape.watch(mean)
        value = regulariser(mean)
    # Of a network without ReLUs it is a constant.
    slope = tape.gradient(value, mean, unconnected_gradients="zero")
    return value, tf.stop_gradient(slope)


def evaluated(
    problem: Problem,
    weights: Weights,
    reference: Weights | None,
    x: tf.Tensor,
    y: tf.Tensor,
    eps: tf.Tensor,
    together: int,
    seed: Seed = (0, 0),
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The losses [n], the clean errors [n] and the bounds `Solved.upper` [n, classes] of a batch.

    What `natural` has trained, without a bound of its own, is bounded by intervals; what
    projections have, by exact inner bounds.

    A regulariser, which has faded at the radius that is evaluated, is not among the losses.

    Args: as `gradients` takes them; no gradient is taken.
    """
    problem = problem._replace(projection=0)
    index, _, _, alone = _split(x, together)
    draw = _drawn(problem, x, seed)

    def piece(here: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        arguments = _piece(problem, reference, x, y, eps, draw, seed, here)
        found = solve(problem, weights, *arguments)
        upper = found.upper
        if upper is None:
            _, xs, ys, *_ = arguments
            region = ball(xs, eps, problem.norm, BOX)
            upper = interval_margins(problem.structure, weights, region, ys)[1]
        return found.loss, found.measured["clean_error"], upper

    if alone:
        return piece(index[0])
    kinds = (x.dtype, tf.float32, x.dtype)
    found = tf.map_fn(piece, index, fn_output_signature=kinds, parallel_iterations=1)
    batch = tf.shape(x)[0]
    classes = problem.structure.output_shape
    return tuple(
        tf.reshape(part, (-1, *shape))[:batch]
        for part, shape in zip(found, ((), (), classes), strict=True)
    )


def _split(x: tf.Tensor, together: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | int, bool]:
    """A batch in equal pieces of at most `together` examples.

    The batch size may be unknown while a step is traced. The pieces' number and size are tensors
    then, and slices of rows within a piece are not planned: `together` alone bounds the memory.

    Returns:
      The examples of every piece, [pieces, size], filled up by the last one; their shares of the
      batch's mean, 0 for what fills up, [pieces, size]; how many pieces; whether it is one for
      certain.
    """
    batch = tf.shape(x)[0] if x.shape[0] is None else x.shape[0]
    pieces = -(-batch // together)
    alone = together >= UNLIMITED if x.shape[0] is None else pieces == 1
    size = -(-batch // pieces)  # Equal pieces leave less to fill up.
    index = tf.range(pieces * size)
    share = tf.cast(index < batch, x.dtype) / tf.cast(batch, x.dtype)
    index = tf.reshape(tf.minimum(index, batch - 1), (pieces, size))
    return index, tf.reshape(share, (pieces, size)), pieces, alone


def _drawn(problem: Problem, x: tf.Tensor, seed: Seed) -> tf.Tensor | None:
    """Random starts for the whole batch: an example's does not depend on its piece."""
    if not problem.attacks:
        return None
    return tf.random.stateless_uniform(tf.shape(x), tf.cast(seed, tf.int32), dtype=x.dtype)


def _piece(
    problem: Problem, reference: Weights | None, x, y, eps, draw, seed: Seed, here: tf.Tensor
) -> tuple:
    """What `solve` takes after the weights, for the examples `here` of a batch.

    No tape should watch this: nothing flows back to the reference.
    """
    x, y = tf.gather(x, here), tf.gather(y, here)
    draw = None if draw is None else tf.gather(draw, here)
    other = None
    if reference is not None:
        vectors = problem.vectors(seed, 1)
        other = problem.side(problem.reference, reference, x, y, eps, vectors)
        # One network after the other: their rows are not held at the same time.
        with tf.control_dependencies([other.base, other.rows]):
            x = tf.identity(x)
    return other, x, y, eps, draw, seed
