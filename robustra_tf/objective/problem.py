"""What a training step minimises, whichever the method: one statement for every engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from robustra_tf.bounds.balls import ball
from robustra_tf.bounds.interval import interval_margins
from robustra_tf.bounds.margins import Margins
from robustra_tf.bounds.projection import (
    MarginEstimate,
    Projection,
    check_projection,
)
from robustra_tf.bounds.radius import DEFAULT_BUDGET
from robustra_tf.bounds.relu import unstable
from robustra_tf.graph.build import build
from robustra_tf.graph.graph import Graph, Structure
from robustra_tf.objective.losses import clean_error, robust_cross_entropy, robust_error
from robustra_tf.objective.methods import (
    ATTACKING,
    BOX,
    DEFAULTS,
    LOSSES,
    Options,
    Task,
    attacked,
)
from robustra_tf.objective.robustra import Objective, ObjectiveEstimate, objective, side
from robustra_tf.settings import DUAL_METHODS, METHODS, NORMS

#: What a step measures that claims something of the bounds it used; losses, eta and t0, which are
#: minimised or chosen, claim nothing.
ESTIMATED = ("robust_error", "wk_error", "unstable", "infeasible", "tight", "loose")

Weights = Sequence[tf.Tensor]
Seed = tf.Tensor | tuple[int, int]


class Problem(NamedTuple):
    """What a step minimises: a method for `structure`, with the reference's structure if any.

    `eps_end` is the radius at the end of the ramp, in pixels; `norm` that of the ball for
    `robustra` and `wong`, whose inner ranges are estimated by `projection` random vectors where
    that is not 0.
    """

    structure: Structure
    reference: Structure | None
    method: str
    rows: str = "auto"
    budget: float = DEFAULT_BUDGET
    inner: str = "dual"
    options: Options = DEFAULTS
    eps_end: float = 1.0
    norm: str = "linf"
    projection: int = 0

    @property
    def attacks(self) -> bool:
        """Whether a step attacks its images, from random starts."""
        mixed = self.method in DUAL_METHODS and bool(self.options.attack_share)
        return mixed or self.method in ATTACKING

    def side(
        self, structure: Structure, weights: Weights, x, y, eps, vectors: Projection | None
    ) -> Margins | MarginEstimate:
        """One network's dual on a batch, as the problem wants it computed."""
        how = (self.rows, self.budget, self.inner, self.norm)
        return side(structure, weights, x, y, eps, *how, vectors)

    def vectors(self, seed: Seed, network: int) -> Projection | None:
        """The random vectors of network 0, the trained one, or 1, the reference; None without."""
        if not self.projection:
            return None
        return Projection(self.projection, tf.cast(seed, tf.int32)).fold(network)


class Solved(NamedTuple):
    """What a method makes of a batch.

    Attributes:
      loss: of every example, [n].
      upper: bounds of `f_t - f_y` over the whole ball by the bound that the method trains on: WK's,
        or the intervals' over the ball cut to the pixel box; [n, classes]. None for `natural` and
        for projections, which bound nothing.
      measured: further numbers of every example, [n] each.
      spread, weight: of a regulariser of the batch as a whole, as `methods.Trained` has them.
    """

    loss: tf.Tensor
    upper: tf.Tensor | None
    measured: dict[str, tf.Tensor]
    spread: tf.Tensor | None = None
    weight: tf.Tensor | float = 0.0


def solve(
    problem: Problem,
    weights: Weights,
    reference: Margins | MarginEstimate | None,
    x: tf.Tensor,
    y: tf.Tensor,
    eps: tf.Tensor,
    draw: tf.Tensor | None = None,
    seed: Seed = (0, 0),
) -> Solved:
    """The loss of every example, the bounds behind it, and measurements of it.

    Args:
      problem: the network and the method.
      weights: the trained network's weights.
      reference: the reference's dual on the same images, or None.
      x: images [n, *shape] in pixels.
      y: labels [n], int32.
      eps: radius in pixels, a scalar tensor.
      draw: of the attacks' random starts, as `drawn` has it.
      seed: of the random vectors, integers [2]; projections alone use it.
    """
    logits = problem.structure.forward(weights, x)
    wrong = clean_error(logits, y)
    if problem.method == "natural":
        return Solved(robust_cross_entropy(logits, y), None, _floats({"clean_error": wrong}))
    if problem.method in LOSSES:
        # A ramp to radius 0 is over from the beginning.
        progress = eps / problem.eps_end if problem.eps_end else tf.ones_like(eps)
        task = Task(problem.structure, weights, x, y, eps, progress, draw)
        trained = LOSSES[problem.method](task, problem.options)
        error = robust_error(trained.upper, y)
        measured = _floats({"clean_error": wrong, "robust_error": error})
        return Solved(trained.loss, trained.upper, measured, trained.spread, trained.weight)
    f = problem.side(problem.structure, weights, x, y, eps, problem.vectors(seed, 0))
    found = objective(f, reference, eps, problem.norm)
    measured = {"clean_error": wrong} | _measured_of_dual(problem, f, found, y)
    loss, shares = robust_cross_entropy(found.h, y), problem.options
    if shares.interval_share:
        region = ball(x, eps, box=BOX)
        cheap = interval_margins(problem.structure, weights, region, y)[1]
        loss = _between(loss, robust_cross_entropy(cheap, y), shares.interval_share)
        measured["interval_error"] = robust_error(cheap, y)
    if shares.attack_share:
        task = Task(problem.structure, weights, x, y, eps, tf.ones_like(eps), draw)
        there = problem.structure.forward(weights, attacked(task, shares.attack_steps))
        loss = _between(loss, robust_cross_entropy(there, y), shares.attack_share)
        measured["attack_error"] = clean_error(there, y)
    measured = {called(problem, name): value for name, value in measured.items()}
    upper = found.wk if isinstance(found, Objective) else None
    return Solved(loss, upper, _floats(measured))


def _measured_of_dual(
    problem: Problem,
    f: Margins | MarginEstimate,
    found: Objective | ObjectiveEstimate,
    y: tf.Tensor,
) -> dict[str, tf.Tensor]:
    """What the dual and the objective say of every example, by the names that bounds have."""
    ranges = f.enclosure.bounds if isinstance(found, Objective) else f.inner.ranges
    dtype, classes = found.h.dtype, found.h.shape[-1]
    measured = {"robust_error": robust_error(found.h, y), "wk_error": robust_error(found.wk, y)}
    for k, index in enumerate(problem.structure.relus):
        crossing = tf.cast(unstable(*ranges[index]), dtype)
        measured[f"unstable/{k + 1}"] = tf.reduce_mean(crossing, tf.range(1, tf.rank(crossing)))
    if problem.method == "robustra":
        targets = {"eta": found.eta, "t0": found.t0}
        for name in ("infeasible", "tight", "loose"):
            targets[name] = getattr(found.tightness, name)
        others = 1.0 - tf.one_hot(y, classes, dtype=dtype)
        for name, value in targets.items():
            total = tf.reduce_sum(tf.cast(value, dtype) * others, -1)
            measured[name] = total / tf.reduce_sum(others, -1)
    return measured


def _between(one: tf.Tensor, other: tf.Tensor, share: float) -> tf.Tensor:
    return (1.0 - share) * one + share * other


def called(problem: Problem, name: str) -> str:
    """What a measurement of a step is called: an estimate where it rests on projections."""
    name, slash, layer = name.partition("/")
    estimated = problem.projection and name in ESTIMATED
    return f"{name}{'_estimate' if estimated else ''}{slash}{layer}"


def _floats(measured: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {k: tf.cast(tf.stop_gradient(v), tf.float32) for k, v in measured.items()}


def trained_places(model: keras.Model, variables: Sequence[tf.Variable]) -> list[int]:
    """For each trainable variable of the model, its place among the graph's variables.

    Raises:
      ValueError: a trainable variable that the graph does not use.
    """
    known = {id(variable): place for place, variable in enumerate(variables)}
    places = []
    for variable in model.trainable_variables:
        if id(variable.value) not in known:
            raise ValueError(f"model: the trainable variable {variable.path} has no place in it")
        places.append(known[id(variable.value)])
    return places


def names(problem: Problem) -> list[str]:
    """What a step measures, by its method."""
    found = ["loss", "clean_error"]
    if problem.method in LOSSES:
        found.append("robust_error")
    elif problem.method != "natural":
        layers = range(1, len(problem.structure.relus) + 1)
        found += ["robust_error", "wk_error", *(f"unstable/{k}" for k in layers)]
    if problem.method in DUAL_METHODS and problem.options.interval_share:
        found.append("interval_error")
    if problem.method in DUAL_METHODS and problem.options.attack_share:
        found.append("attack_error")
    if problem.method == "robustra":
        found += ["eta", "t0", "infeasible", "tight", "loose"]
    return [called(problem, name) for name in found]


def pose(
    model: keras.Model, reference: keras.Model | None, method: str, **how: Any
) -> tuple[Problem, Graph, Graph | None]:
    """The problem that a step solves, and the graphs of the model and of its reference.

    `how` are the further fields of `Problem`.

    Raises:
      ValueError: an unknown method, a reference that is missing or not wanted, or a norm or a
        projection that the method does not take.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    norm, projection = how.get("norm", "linf"), how.get("projection", 0)
    norms = ("linf",) if method in LOSSES else NORMS
    if norm not in norms:
        raise ValueError(f"norm must be one of {', '.join(norms)}, got {norm!r}")
    check_projection(projection, norm)
    if projection and (method not in DUAL_METHODS or how.get("inner", "dual") != "dual"):
        raise ValueError(
            f"projection must be 0 for method {method!r} with inner bounds by "
            f"{how.get('inner', 'dual')!r}, got {projection}"
        )
    if (reference is not None) != (method == "robustra"):
        wanted = "a model" if method == "robustra" else "None"
        raise ValueError(f"reference must be {wanted} for method {method!r}, got {reference}")
    graph = build(model)
    other = None if reference is None else build(reference)
    structures = (graph.structure, None if other is None else other.structure)
    return Problem(*structures, method, **how), graph, other
