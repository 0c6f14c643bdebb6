"""Attacks on two networks as one classifier: on both margins at once, replayed by Keras."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from robustra_tf import counting
from robustra_tf.attacks.ascent import Ascent, Unsafe
from robustra_tf.attacks.pgd import Attack, AttackResult
from robustra_tf.attacks.replay import within
from robustra_tf.intake import checks
from robustra_tf.pair import Pair, Taken, agreed, take_pair
from robustra_tf.property import Query

GOALS = ("silent", "abstention")


class PairAttackResult(AttackResult):
    """What an attack on a pair found.

    Attributes:
      adversarial: float32 [n, *shape], the best point found for each image, in the ball and the
        box.
      success: boolean [n], the goal is reached there, all logits finite: `silent`, the pair answers
        a class other than the label; `abstention`, it answers none.
      predicted: int [n], what the pair answers at `adversarial`, -1 where it abstains.
      margin: [n], what was climbed, at `adversarial`: above 0 where the goal is reached.

    Example:
      >>> rt.attack(rt.Pair(f, g), x, y, eps=0.4).predicted
      array([1])
    """

    def summary(self) -> str:
        """One line: of how many images the goal was reached."""
        n, found = len(self.success), int(self.success.sum())
        return f"{found} of {n} images attacked successfully ({found / max(n, 1):.2%})"


class PairAttack(Attack):
    """Looks for points of a ball that a pair answers wrongly, or not at all.

    With the lead `d_t(h) = h_t - max_s h_s` over `s != t`, both networks answer `t` where
    `min(d_t(f), d_t(g))` is above 0: `silent` climbs the largest of these over all `t` but the
    label. They differ where `min(d_t(f), -d_t(g))` is above 0 for some `t`: `abstention` climbs
    the largest of these. Each step follows the network and the target that decide it.

    Example:
      >>> pair = rt.Pair(f, g)
      >>> rt.attacks.PairAttack(pair)(x, y, eps=0.1).success
      array([False])
      >>> rt.attacks.PairAttack(pair)(x, y, eps=0.4).success
      array([ True])
    """

    def __init__(self, pair: Pair, *, goal: str = "silent", **options: Any):
        """Compiles nothing yet.

        Args:
          pair: the two networks.
          goal: `silent`, both networks answer one wrong class; `abstention`, they differ.
          **options: as `Attack` takes them, but for `loss`.

        Raises:
          ValueError: an option outside its range, or a network that computes something else than
            its layers' weights and settings say.
        """
        if "loss" in options:
            raise ValueError(f"loss must be left out for a Pair, got {options['loss']!r}: use goal")
        self.goal = checks.member("goal", goal, GOALS)
        super().__init__(pair, **options)

    def __call__(self, x, y=None, eps=None, *args: Any, **kwargs: Any) -> AttackResult:
        """Attacks images, as `Attack` does; properties and outputs are refused (`ValueError`)."""
        checks.plain("an attack on a Pair", x, y)
        return super().__call__(x, y, eps, *args, **kwargs)

    def _take(self, model: Any) -> Taken:
        if not isinstance(model, Pair):
            raise TypeError(f"pair: expected a Pair, got {type(model).__name__}")
        return take_pair(model)

    def _ascent(self, part: Query) -> Ascent:
        how = ("margin", self.steps, self.relative_step, self.early_stop)
        return _PairAscent(part.norm, part.numbers, *how, self.goal)

    def _judged(self, exact: Query, points: np.ndarray) -> AttackResult:
        """What Keras makes of the points, which have to lie in the ball."""
        inside = within(exact.x, points, exact.eps, exact.norm, exact.box)
        nothing = np.zeros((0, *self.network.structure.output_shape), np.float32)
        parts: list[tuple[np.ndarray, np.ndarray]] = [(nothing, nothing)]
        for at in range(0, len(points), self.batch_size):
            f, g = self.network.pair(tf.constant(points[at : at + self.batch_size]))
            parts.append((np.asarray(f), np.asarray(g)))
        f, g = (np.concatenate(each) for each in zip(*parts, strict=True))
        predicted = agreed(f, g)
        finite = np.isfinite(f).all(1) & np.isfinite(g).all(1)
        none = predicted == counting.NO_CLASS
        reached = none if self.goal == "abstention" else ~none & (predicted != exact.labels)
        margin = _margin(tf.constant(f), tf.constant(g), exact.labels, self.goal).numpy()
        return PairAttackResult(points, inside & finite & reached, predicted, margin)


@dataclasses.dataclass(frozen=True)
class _PairAscent(Ascent):
    """As `Ascent`, of the outputs of both networks side by side."""

    goal: str

    def _judged(self, outputs: tf.Tensor, aim: tf.Tensor | Unsafe) -> tuple[tf.Tensor, tf.Tensor]:
        f, g = tf.split(tf.cast(outputs, tf.float32), 2, axis=1)
        margin = _margin(f, g, aim, self.goal)
        return margin, margin


def _margin(f: tf.Tensor, g: tf.Tensor, y: Any, goal: str) -> tf.Tensor:
    """How far logits [n, classes] are inside of the goal, [n]."""
    first, second = _lead(f), _lead(g)
    if goal == "abstention":
        return tf.reduce_max(tf.minimum(first, -second), axis=1)
    label = tf.one_hot(y, f.shape[-1], on_value=True, off_value=False)
    both = tf.minimum(first, second)
    return tf.reduce_max(tf.where(label, tf.constant(-np.inf, both.dtype), both), axis=1)


def _lead(logits: tf.Tensor) -> tf.Tensor:
    """By how much each logit is above all others, [n, classes]."""
    top = tf.math.top_k(logits, 2)
    first, second = top.values[:, :1], top.values[:, 1:]
    best = tf.one_hot(top.indices[:, 0], logits.shape[-1], on_value=True, off_value=False)
    return logits - tf.where(best, second, first)
