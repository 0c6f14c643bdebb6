"""What a training step minimises, whichever the method: one statement for every engine."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from robustra_tf.bounds.interval import interval_margins
from robustra_tf.bounds.margins import Margins
from robustra_tf.bounds.options import BoundOptions
from robustra_tf.bounds.projection import MarginEstimate
from robustra_tf.bounds.relu import unstable
from robustra_tf.graph.graph import Network, Structure
from robustra_tf.objective.batch import Batch, Loss, LossOptions, Seed
from robustra_tf.objective.interval_losses import (
    INTERVAL_LOSSES,
    attacked,
    whole_ball,
)
from robustra_tf.objective.losses import clean_error, robust_cross_entropy, robust_error
from robustra_tf.objective.robustra import (
    EXCLUDED,
    Objective,
    ObjectiveEstimate,
    ball_margins,
    objective,
)
from robustra_tf.training.methods import CLAIMS, Method

#: The duals of a network over a batch, bounds or estimates.
Dual = Margins | MarginEstimate


@dataclasses.dataclass(frozen=True)
class Problem:
    """What a step minimises: a method's loss for a structure.

    Attributes:
      structure: of the network that is trained.
      reference: of its reference; None without one.
      method: of training.
      bounds: how the dual is bounded; the norm is that of the balls.
      losses: what the method's loss is tuned by.

    Raises:
      ValueError: a reference that is missing or not wanted, or a norm, inner bounds or a projection
        that the method does not take.
    """

    structure: Structure
    reference: Structure | None
    method: Method
    bounds: BoundOptions = BoundOptions()
    losses: LossOptions = LossOptions()

    def __post_init__(self):
        method, bounds = self.method, self.bounds
        if bounds.norm not in method.norms:
            raise ValueError(f"norm must be one of {', '.join(method.norms)}, got {bounds.norm!r}")
        if bounds.inner not in method.inner:
            allowed = ", ".join(method.inner)
            raise ValueError(
                f"inner must be one of {allowed} for method {method.name!r}, got {bounds.inner!r}"
            )
        if bounds.projection and not method.mixes:
            raise ValueError(
                f"projection must be 0 for method {method.name!r}, got {bounds.projection}"
            )
        for name in ("interval_share", "attack_share"):
            # Intervals and attacks are of the `linf` ball, cut to the box.
            if method.mixes and bounds.norm != "linf" and (share := getattr(self.losses, name)):
                raise ValueError(f"{name} must be 0 with norm {bounds.norm!r}, got {share!r}")
        if not method.needs_reference:
            for name, usual in (("threshold", "t0"), ("agreement_weight", 0)):
                if (value := getattr(self.losses, name)) != usual:
                    raise ValueError(
                        f"{name} must be {usual} for method {method.name!r}, got {value!r}"
                    )
        method.check_reference(self.reference is not None)

    @property
    def attacks(self) -> bool:
        """Whether a step attacks its images, from random starts."""
        return self.method.attacks or (self.method.mixes and bool(self.losses.attack_share))

    @property
    def regularised(self) -> bool:
        """Whether a regulariser of the batch as a whole is minimised too."""
        return self.method.bound == "interval" and bool(self.losses.regulariser)

    @property
    def measurements(self) -> list[str]:
        """What a step measures, by the names that it reports."""
        found = ["loss", "clean_error"]
        for name in self.method.measures:
            layers = range(1, len(self.structure.relus) + 1)
            found += [f"unstable/{k}" for k in layers] if name == "unstable" else [name]
        if self.method.mixes and self.losses.interval_share:
            found.append("interval_error")
        if self.method.mixes and self.losses.attack_share:
            found.append("attack_error")
        return [self.reported(name) for name in found]

    def reported(self, name: str) -> str:
        """What a measurement of a step is called: an estimate where it rests on projections."""
        name, slash, layer = name.partition("/")
        estimated = self.bounds.projection and name in CLAIMS
        return f"{name}{'_estimate' if estimated else ''}{slash}{layer}"

    def batch(
        self,
        x: tf.Tensor,
        y: tf.Tensor,
        eps: tf.Tensor,
        seed: Seed = (0, 0),
        importance: tf.Tensor | None = None,
        lowered: tf.Tensor | None = None,
    ) -> Batch:
        """A batch with what its losses need beside the images.

        Random starts are drawn for all of it: an example's does not depend on its piece.

        Args:
          x, y, eps, importance, lowered: as `Batch` has them; a threshold on a ramp has come as far
            as the radius where none is given.
          seed: integers [2]; equal seeds give equal random starts and vectors.
        """
        seed = tf.cast(seed, tf.int32)
        draw = None
        if self.attacks:
            draw = tf.random.stateless_uniform(tf.shape(x), seed, dtype=x.dtype)
        progress = self.losses.progress(eps)
        lowered = progress if lowered is None else lowered
        return Batch(x, y, eps, progress, draw, seed, lowered, importance)

    def dual(self, network: Network, batch: Batch, which: int) -> Dual:
        """The dual on a batch of network 0, the trained one, or 1, the reference.

        The two have random vectors of their own.
        """
        seed = None
        if self.bounds.projection:
            seed = tf.random.experimental.stateless_fold_in(batch.seed, which)
        return ball_margins(network, batch.x, batch.y, batch.eps, self.bounds, seed=seed)


def solve(problem: Problem, network: Network, reference: Dual | None, batch: Batch) -> Loss:
    """The loss of every example, the bounds behind it, and measurements of it.

    Args:
      problem: the method.
      network: the trained one.
      reference: the reference's dual on the same batch, or None.
      batch: the examples.
    """
    logits = network(batch.x)
    measured = {"clean_error": clean_error(logits, batch.y)}
    if problem.method.bound is None:
        found = Loss(robust_cross_entropy(logits, batch.y))
    elif problem.method.bound == "interval":
        found = INTERVAL_LOSSES[problem.method.name](network, batch, problem.losses)
        found = found._replace(measured={"robust_error": robust_error(found.upper, batch.y)})
    else:
        found = _dual_loss(problem, network, reference, batch)
        if weight := problem.losses.agreement_weight:
            clean = robust_cross_entropy(logits, batch.y)
            found = found._replace(each=found.each + weight * clean)
    if batch.importance is not None:
        found = found._replace(each=batch.importance * found.each)
    measured |= found.measured
    if certifies := problem.method.certifies:
        measured[certifies] = tf.logical_or(measured[certifies], measured["clean_error"])
    return found._replace(
        measured={
            problem.reported(name): tf.cast(tf.stop_gradient(value), tf.float32)
            for name, value in measured.items()
        }
    )


def _dual_loss(problem: Problem, network: Network, reference: Dual | None, batch: Batch) -> Loss:
    """Cross-entropy of the objective, with shares of that of intervals and at attacked images.

    A target that the reference excludes costs nothing in any of them.
    """
    f = problem.dual(network, batch, 0)
    lowered = {"t0": 0.0, "zero": 1.0, "ramp": batch.lowered}[problem.losses.threshold]
    found = objective(f, reference, batch.eps, problem.bounds.norm, lowered)
    measured = _measured(problem, f, found, batch.y)
    loss, losses = robust_cross_entropy(found.h, batch.y), problem.losses
    if losses.interval_share:
        cheap = interval_margins(network, whole_ball(batch), batch.y).upper
        part = robust_cross_entropy(_counted(found, cheap), batch.y)
        loss = _between(loss, part, losses.interval_share)
        measured["interval_error"] = robust_error(cheap, batch.y)
    if losses.attack_share:
        there = network(attacked(network, batch, losses.attack_steps, losses.attack_ratio))
        own = tf.gather(there, batch.y, batch_dims=1)[:, None]
        part = robust_cross_entropy(_counted(found, there - own), batch.y)
        loss = _between(loss, part, losses.attack_share)
        measured["attack_error"] = clean_error(there, batch.y)
    return Loss(loss, found.wk if isinstance(found, Objective) else None, measured)


def _counted(found: Objective | ObjectiveEstimate, margins: tf.Tensor) -> tf.Tensor:
    """`f_t - f_y` [n, classes], or bounds of it, without the targets that are excluded."""
    return tf.where(found.excluded, tf.constant(EXCLUDED, margins.dtype), margins)


def _measured(
    problem: Problem, f: Dual, found: Objective | ObjectiveEstimate, y: tf.Tensor
) -> dict[str, tf.Tensor]:
    """What the dual and the objective say of every example, by the names that bounds have."""
    ranges = f.enclosure.bounds if isinstance(f, Margins) else f.inner.ranges
    dtype, classes = found.h.dtype, found.h.shape[-1]
    measured = {"robust_error": robust_error(found.h, y), "wk_error": robust_error(found.wk, y)}
    for k, index in enumerate(problem.structure.relus):
        crossing = tf.cast(unstable(*ranges[index]), dtype)
        measured[f"unstable/{k + 1}"] = tf.reduce_mean(crossing, tf.range(1, tf.rank(crossing)))
    if problem.method.needs_reference:
        targets = {"eta": found.eta, "t0": found.t0, "excluded": found.excluded}
        for name in ("infeasible", "tight", "loose"):
            targets[name] = getattr(found.tightness, name)
        others = 1.0 - tf.one_hot(y, classes, dtype=dtype)
        for name, value in targets.items():
            total = tf.reduce_sum(tf.cast(value, dtype) * others, -1)
            measured[name] = total / tf.reduce_sum(others, -1)
    return measured


def _between(one: tf.Tensor, other: tf.Tensor, share: float) -> tf.Tensor:
    # Nothing is differentiated for a part that counts for nothing.
    return other if share == 1.0 else (1.0 - share) * one + share * other
