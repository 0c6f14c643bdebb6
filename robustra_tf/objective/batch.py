"""What a loss is a function of beside the network: a batch and options; and what it gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import tensorflow as tf

from robustra_tf.vocabulary import THRESHOLDS

Seed = tf.Tensor | tuple[int, int]


class Batch(NamedTuple):
    """Images with their labels, and where a step stands.

    Attributes:
      x: images [n, *shape] in pixels of [0, 1].
      y: labels [n], int32.
      eps: radius in pixels, a scalar tensor.
      progress: how far the radius has come on its ramp, 0 to 1, a scalar tensor.
      draw: of the attacks' random starts, uniform in [0, 1), [n, *shape]; None where none attacks.
      seed: of random vectors, integers [2].
      lowered: how far a threshold on a ramp has come from `t0` to 0, 0 to 1, a scalar tensor.
      importance: of every example, a factor of its loss, [n]; None for 1.
    """

    x: tf.Tensor
    y: tf.Tensor
    eps: tf.Tensor
    progress: tf.Tensor | float = 1.0
    draw: tf.Tensor | None = None
    seed: Seed = (0, 0)
    lowered: tf.Tensor | float = 1.0
    importance: tf.Tensor | None = None

    def take(self, index: tf.Tensor) -> Batch:
        """The examples at `index` [k]."""
        parts = {"x": self.x, "y": self.y, "draw": self.draw, "importance": self.importance}
        known = {name: tf.gather(part, index) for name, part in parts.items() if part is not None}
        return self._replace(**known)


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """What the losses of all methods are tuned by.

    Attributes:
      share: how far `mtl_ibp`, `cc_ibp` and `exp_ibp` go from the attack, 0, to intervals, 1; of
        `sabr`, the radius of the small box as a share of the ball's.
      clean_share: of the methods by intervals, the weight of the clean loss once the ramp is over;
        it begins at 1 (Gowal et al.'s kappa).
      attack_steps: of the attacks.
      attack_ratio: the radius of the attacks as a multiple of the one that is trained at.
      regulariser: of the methods by intervals, the weight at the beginning of the ramp, falling
        to 0 (Shi et al. 2021).
      interval_share: of `robustra` and `wong`, the weight of the loss on the margins' intervals
        over the ball cut to the box, beside that on the dual's bounds.
      attack_share: of `robustra` and `wong`, the weight of the loss at an attacked image, beside
        that on bounds.
      threshold: of `robustra`, that of the reference space: `t0`, the paper's, at which every
        target counts; `zero`, at which a target that the reference excludes costs nothing; `ramp`,
        from the one to the other.
      agreement_weight: of `robustra`, the weight of the clean loss beside all else: where both
        networks answer the label they agree.
      eps_end: radius at the end of the ramp, in pixels, by which losses by intervals fade.

    Raises:
      ValueError: an option out of its range, by name.

    Example:
      >>> rt.LossOptions(attack_steps=4).share
      0.05
    """

    share: float = 0.05
    clean_share: float = 0.0
    attack_steps: int = 8
    attack_ratio: float = 1.0
    regulariser: float = 0.0
    interval_share: float = 0.0
    attack_share: float = 0.0
    threshold: str = "t0"
    agreement_weight: float = 0.0
    eps_end: float = 1.0

    def __post_init__(self):
        for name in ("share", "clean_share", "interval_share", "attack_share"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"{name} must be at least 0 and at most 1, got {value!r}")
        if self.threshold not in THRESHOLDS:
            known = ", ".join(THRESHOLDS)
            raise ValueError(f"threshold must be one of {known}, got {self.threshold!r}")
        if not self.attack_ratio > 0:
            raise ValueError(f"attack_ratio must be above 0, got {self.attack_ratio!r}")
        least_of = {"attack_steps": 1, "regulariser": 0, "agreement_weight": 0, "eps_end": 0}
        for name, least in least_of.items():
            if not (value := getattr(self, name)) >= least:
                raise ValueError(f"{name} must be at least {least}, got {value!r}")

    def progress(self, eps: tf.Tensor) -> tf.Tensor:
        """How far a radius is on the ramp, 0 to 1; one to radius 0 is over from the beginning."""
        return eps / self.eps_end if self.eps_end else tf.ones_like(eps)


class Loss(NamedTuple):
    """What a method makes of a batch.

    To be minimised is `mean(each) + weight * regulariser(mean(spread))`. The second term is no mean
    over the examples: a batch that is worked on in pieces needs the mean of `spread` over them all.

    Attributes:
      each: of every example, [n].
      upper: bounds of `f_t - f_y` over the whole ball by the bound that the method trains on: WK's,
        or the intervals' over the ball cut to the pixel box; [n, classes]. None for `natural` and
        for projections, which bound nothing.
      measured: further numbers of every example, [n] each.
      spread: of `Spread`'s numbers, [n, ReLU layers, numbers]; None without a regulariser.
      weight: of the regulariser, a scalar.
    """

    each: tf.Tensor
    upper: tf.Tensor | None = None
    measured: Mapping[str, tf.Tensor] = MappingProxyType({})
    spread: tf.Tensor | None = None
    weight: tf.Tensor | float = 0.0
