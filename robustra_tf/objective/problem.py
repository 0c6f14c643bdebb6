"""What a training step minimises, whichever the method: one statement for every engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from robustra_tf.bounds.cost import example_bytes
from robustra_tf.bounds.enclosure import DEFAULT_BUDGET
from robustra_tf.bounds.margins import Margins
from robustra_tf.bounds.relu import unstable
from robustra_tf.graph.build import build
from robustra_tf.graph.graph import Graph, Structure
from robustra_tf.objective.losses import clean_error, robust_cross_entropy, robust_error
from robustra_tf.objective.methods import DEFAULTS, LOSSES, Options, Task
from robustra_tf.objective.robustra import objective, side
from robustra_tf.settings import METHODS

#: Examples whose rows are worked on together. More fill memory, not the machine: some examples of
#: mnist_small already make matrix products of a thousand rows, and stay near the caches.
MOST_TOGETHER = 25
#: More examples than any batch has.
UNLIMITED = 2**31 - 1

Weights = Sequence[tf.Tensor]


class Problem(NamedTuple):
    """What a step minimises: a method for `structure`, with the reference's structure if any.

    `eps_end` is the radius at the end of the ramp, in pixels.
    """

    structure: Structure
    reference: Structure | None
    method: str
    rows: str = "auto"
    budget: float = DEFAULT_BUDGET
    inner: str = "dual"
    options: Options = DEFAULTS
    eps_end: float = 1.0

    def side(self, structure: Structure, weights: Weights, x, y, eps) -> Margins:
        """One network's dual on a batch, as the problem wants it computed."""
        return side(structure, weights, x, y, eps, self.rows, self.budget, self.inner)


def losses(
    problem: Problem, weights: Weights, reference: Margins | None, x: tf.Tensor, y: tf.Tensor, eps
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """The loss of every example, [n], and measurements of it, [n] each.

    Args:
      problem: the network and the method.
      weights: the trained network's weights.
      reference: the reference's dual on the same images, or None.
      x: images [n, *shape] in pixels.
      y: labels [n], int32.
      eps: radius in pixels, a scalar tensor.
    """
    logits = problem.structure.forward(weights, x)
    wrong = clean_error(logits, y)
    if problem.method == "natural":
        return robust_cross_entropy(logits, y), _floats({"clean_error": wrong})
    if problem.method in LOSSES:
        task = Task(problem.structure, weights, x, y, eps, eps / problem.eps_end)
        trained = LOSSES[problem.method](task, problem.options)
        error = robust_error(trained.upper, y)
        return trained.loss, _floats({"clean_error": wrong, "robust_error": error})
    f = problem.side(problem.structure, weights, x, y, eps)
    found = objective(f, reference, eps)
    measured = {"clean_error": wrong, "robust_error": robust_error(found.h, y)}
    measured["wk_error"] = robust_error(found.wk, y)
    for k, index in enumerate(problem.structure.relus):
        crossing = tf.cast(unstable(*f.enclosure.bounds[index]), x.dtype)
        measured[f"unstable/{k + 1}"] = tf.reduce_mean(crossing, tf.range(1, tf.rank(crossing)))
    if problem.method == "robustra":
        targets = {
            "eta": found.eta,
            "t0": found.t0,
            "infeasible": found.tightness.infeasible,
            "tight": found.tightness.tight,
            "loose": found.tightness.loose,
        }
        others = 1.0 - tf.one_hot(y, logits.shape[-1], dtype=x.dtype)
        for name, value in targets.items():
            value = tf.cast(value, x.dtype)
            measured[name] = tf.reduce_sum(value * others, -1) / tf.reduce_sum(others, -1)
    return robust_cross_entropy(found.h, y), _floats(measured)


def _floats(measured: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {k: tf.cast(tf.stop_gradient(v), tf.float32) for k, v in measured.items()}


def gradients(
    problem: Problem,
    weights: Weights,
    reference: Weights | None,
    x: tf.Tensor,
    y: tf.Tensor,
    eps: tf.Tensor,
    together: int,
) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
    """The gradient of the mean loss in every weight, and the mean of every measurement.

    The batch is worked on `together` examples at a time and the gradients are added up, so that
    memory does not grow with the batch; a last, smaller piece is filled up by examples of weight 0.

    Args:
      problem, weights, x, y, eps: as `losses` takes them; `x` of static batch size.
      reference: the reference's weights, or None.
      together: examples at a time.
    """
    batch = x.shape[0]
    together = min(together, batch)
    pieces = -(-batch // together)
    together = -(-batch // pieces)  # Equal pieces leave less to fill up.
    index = tf.range(pieces * together)
    share = tf.cast(index < batch, x.dtype) / batch
    index = tf.reshape(tf.minimum(index, batch - 1), (pieces, together))
    share = tf.reshape(share, (pieces, together))
    weights = list(weights)

    def piece(i: tf.Tensor | int) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
        here, part = tf.gather(index, i), tf.gather(share, i)
        xs, ys = tf.gather(x, here), tf.gather(y, here)
        other = None
        if reference is not None:
            # Outside the tape: nothing flows back to the reference.
            other = problem.side(problem.reference, reference, xs, ys, eps)
            other = other._replace(enclosure=None)
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss, measured = losses(problem, weights, other, xs, ys, eps)
            total = tf.reduce_sum(loss * part)
        found = tape.gradient(total, weights, unconnected_gradients="zero")
        measured["loss"] = tf.cast(loss, tf.float32)
        part = tf.cast(part, tf.float32)
        return found, {k: tf.reduce_sum(v * part) for k, v in measured.items()}

    if pieces == 1:
        return piece(0)
    # Starting from zeros, the piece is traced once, not once before the loop and once within.
    nothing = ([tf.zeros_like(w) for w in weights], dict.fromkeys(names(problem), tf.zeros(())))
    _, total = tf.while_loop(
        lambda i, _: i < pieces,
        lambda i, total: (i + 1, tf.nest.map_structure(tf.add, total, piece(i))),
        (tf.constant(0), nothing),
        parallel_iterations=1,
        maximum_iterations=pieces,
    )
    return total


def names(problem: Problem) -> list[str]:
    """What a step measures, by its method."""
    found = ["loss", "clean_error"]
    if problem.method in LOSSES:
        found.append("robust_error")
    elif problem.method != "natural":
        layers = range(1, len(problem.structure.relus) + 1)
        found += ["robust_error", "wk_error", *(f"unstable/{k}" for k in layers)]
    if problem.method == "robustra":
        found += ["eta", "t0", "infeasible", "tight", "loose"]
    return found


def examples_together(problem: Problem, memory_mb: float) -> int:
    """How many examples fit `memory_mb`, at least 1; at most `MOST_TOGETHER` with inner rows."""
    if problem.method == "natural" or problem.method in LOSSES:
        return UNLIMITED
    inner = problem.inner != "interval"
    fitting = int(max(1, memory_mb * 2**20 // example_bytes(problem.structure, inner)))
    return min(MOST_TOGETHER, fitting) if inner else fitting


def pose(
    model: keras.Model, reference: keras.Model | None, method: str, **how: Any
) -> tuple[Problem, Graph, Graph | None]:
    """The problem that a step solves, and the graphs of the model and of its reference.

    `how` are the further fields of `Problem`.

    Raises:
      ValueError: an unknown method, or a reference that is missing or not wanted.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if (reference is not None) != (method == "robustra"):
        wanted = "a model" if method == "robustra" else "None"
        raise ValueError(f"reference must be {wanted} for method {method!r}, got {reference}")
    graph = build(model)
    other = None if reference is None else build(reference)
    structures = (graph.structure, None if other is None else other.structure)
    return Problem(*structures, method, **how), graph, other
