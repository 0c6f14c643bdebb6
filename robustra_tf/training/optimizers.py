"""Keras' optimizers by name, and as pure functions: (gradient, weight, slots) -> (weight, slots).

Keras on TensorFlow updates variables in place and has no stateless form; a step that is driven from
outside TensorFlow needs one. The state keeps Keras' order, so that the two can be exchanged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from robustra_tf.training.radam import RAdam, rectified

Updates = tuple[tf.Tensor, list[tf.Tensor]]


@dataclasses.dataclass(frozen=True)
class Adam:
    """Kingma and Ba 2015, with the bias corrections folded into the step size as Keras has them.

    `m += (1 - beta_1)(g - m)`, `v += (1 - beta_2)(g^2 - v)`,
    `w -= lr sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(v) + epsilon)`.
    """

    beta_1: float
    beta_2: float
    epsilon: float
    slots = 2

    def update(
        self,
        gradient: tf.Tensor,
        weight: tf.Tensor,
        slots: Sequence[tf.Tensor],
        count: tf.Tensor,
        learning_rate: tf.Tensor,
    ) -> Updates:
        """One weight after its `count`-th update (1, 2, ...), and its new `m` and `v`."""
        m, v = slots
        m = m + (1 - self.beta_1) * (gradient - m)
        v = v + (1 - self.beta_2) * (tf.square(gradient) - v)
        moved = self.moved(m, v, tf.cast(count, weight.dtype))
        return weight - learning_rate * moved, [m, v]

    def moved(self, m: tf.Tensor, v: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        """How far a weight moves at rate 1, towards less."""
        correction = tf.sqrt(1 - self.beta_2**count) / (1 - self.beta_1**count)
        return correction * m / (tf.sqrt(v) + self.epsilon)


@dataclasses.dataclass(frozen=True)
class AdamW(Adam):
    """Loshchilov and Hutter 2019: weights shrink by `1 - lr weight_decay` before Adam's update."""

    weight_decay: float

    def update(
        self,
        gradient: tf.Tensor,
        weight: tf.Tensor,
        slots: Sequence[tf.Tensor],
        count: tf.Tensor,
        learning_rate: tf.Tensor,
    ) -> Updates:
        """One weight after its `count`-th update (1, 2, ...), and its new `m` and `v`."""
        weight = weight - learning_rate * self.weight_decay * weight
        return super().update(gradient, weight, slots, count, learning_rate)


@dataclasses.dataclass(frozen=True)
class RectifiedAdam(Adam):
    """Liu et al. 2020, as `radam.RAdam` has it."""

    def moved(self, m: tf.Tensor, v: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        """How far a weight moves at rate 1, towards less."""
        betas = self.beta_1, self.beta_2
        return rectified(m, v, count, betas=betas, epsilon=self.epsilon)


@dataclasses.dataclass(frozen=True)
class Sgd:
    """Gradient descent with momentum: `m = momentum m - lr g`, `w += m`."""

    momentum: float

    @property
    def slots(self) -> int:
        """`m`, which a momentum of 0 does without."""
        return int(self.momentum != 0)

    def update(
        self,
        gradient: tf.Tensor,
        weight: tf.Tensor,
        slots: Sequence[tf.Tensor],
        count: tf.Tensor,
        learning_rate: tf.Tensor,
    ) -> Updates:
        """One weight after an update, and its new `m`; `count` does not matter."""
        del count
        moved = -learning_rate * gradient
        if not slots:
            return weight + moved, []
        moved = self.momentum * slots[0] + moved
        return weight + moved, [moved]


@dataclasses.dataclass(frozen=True)
class Rule:
    """The update of all weights.

    Attributes:
      each: that of one weight.
      average: what the average of the weights keeps of itself in an update; None for no average.
    """

    each: Adam | Sgd
    average: float | None = None

    @property
    def tensors(self) -> int:
        """What each weight has in the state."""
        return self.each.slots + (self.average is not None)


#: What `make` knows, and the optimizers that shrink weights themselves.
NAMES, DECAYING = ("adam", "adamw", "radam", "sgd"), ("adamw",)


def make(
    name: str, lr: float, momentum: float = 0.0, *, weight_decay: float = 0.0, average: float = 0.0
) -> keras.optimizers.Optimizer:
    """The Keras optimizer of a setting.

    Args:
      name: one of `NAMES`.
      lr: the learning rate.
      momentum: of `sgd`.
      weight_decay: of those in `DECAYING`.
      average: what the average of the weights keeps of itself in a step; 0 for no average.
    """
    ema: dict[str, Any] = {"use_ema": True, "ema_momentum": average} if average else {}
    if name == "sgd":
        return keras.optimizers.SGD(lr, momentum=momentum, **ema)
    if name == "adamw":
        return keras.optimizers.AdamW(lr, weight_decay=weight_decay, **ema)
    return {"adam": keras.optimizers.Adam, "radam": RAdam}[name](lr, **ema)


def rule(optimizer: keras.optimizers.Optimizer) -> Rule:
    """The update of a Keras `Adam`, `AdamW` or `SGD`, or of `RAdam`, with or without an average.

    Raises:
      ValueError: another optimizer, or one with an option that the pure form does not have.
    """
    config = optimizer.get_config()
    adam = ("beta_1", "beta_2", "epsilon")
    known = {
        keras.optimizers.Adam: (Adam, adam),
        keras.optimizers.AdamW: (AdamW, (*adam, "weight_decay")),
        RAdam: (RectifiedAdam, adam),
        keras.optimizers.SGD: (Sgd, ("momentum",)),
    }
    if type(optimizer) not in known:
        names = ", ".join(kind.__name__ for kind in known)
        raise ValueError(f"optimizer must be one of {names}, got {type(optimizer).__name__}")
    kind, names = known[type(optimizer)]
    plain = {*names, "name", "learning_rate", "use_ema", "ema_momentum"}
    extra = {name: value for name, value in config.items() if name not in plain and value}
    if extra:
        raise ValueError(f"optimizer must have none of the options {sorted(extra)}, got {extra}")
    average = config["ema_momentum"] if config["use_ema"] else None
    return Rule(kind(**{name: config[name] for name in names}), average)


def state(optimizer: keras.optimizers.Optimizer) -> list[tf.Tensor]:
    """A built optimizer's present state: the count of updates (int32), then every weight's tensors.

    These are `optimizer.variables` but for the learning rate, which is an argument of the update:
    averages of all weights, if any, then the slots of the first weight, of the second, and so on.
    """
    values = [v.value for v in optimizer.variables if v is not optimizer.learning_rate]
    # int32 because not every runtime has 64-bit integers.
    return [tf.cast(values[0], tf.int32), *map(tf.convert_to_tensor, values[1:])]


def averages(optimizer: keras.optimizers.Optimizer, count: int) -> list[tf.Tensor]:
    """The averages of the `count` weights that a built optimizer keeps averages of."""
    return state(optimizer)[1 : 1 + count]


class Updated(NamedTuple):
    """All weights after an update, and the optimizer's state."""

    weights: list[tf.Tensor]
    state: list[tf.Tensor]


def updated(
    rule: Rule,
    gradients: Sequence[tf.Tensor],
    weights: Sequence[tf.Tensor],
    state: Sequence[tf.Tensor],
    learning_rate: tf.Tensor,
) -> Updated:
    """All weights and the state after one update.

    Args:
      rule: the optimizer.
      gradients, weights: one of each per trained weight, in the optimizer's order.
      state: as `state` gives it.
      learning_rate: a scalar.

    Raises:
      ValueError: a state of another length than the rule has.
    """
    if len(state) != (wanted := 1 + rule.tensors * len(weights)):
        raise ValueError(f"state must hold {wanted} tensors for {rule}, got {len(state)}")
    count, width = state[0] + 1, rule.each.slots
    averages = state[1 : 1 + len(weights)] if rule.average is not None else []
    slots, after, kept = state[1 + len(averages) :], [], []
    for k, (gradient, weight) in enumerate(zip(gradients, weights, strict=True)):
        mine = slots[k * width : (k + 1) * width]
        weight, mine = rule.each.update(gradient, weight, mine, count, learning_rate)
        after.append(weight)
        kept += mine
    if rule.average is not None:
        # Before the first step there is nothing to keep.
        share = tf.cast(count > 1, learning_rate.dtype) * rule.average
        averages = [share * a + (1 - share) * w for a, w in zip(averages, after, strict=True)]
    return Updated(after, [count, *averages, *kept])
