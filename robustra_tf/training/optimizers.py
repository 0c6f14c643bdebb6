"""Keras' optimizers by name, and as pure functions: (gradient, weight, slots) -> (weight, slots).

Keras on TensorFlow updates variables in place and has no stateless form; a step that is driven from
outside TensorFlow needs one. The state keeps Keras' order, so that the two can be exchanged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf


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
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """One weight after its `count`-th update (1, 2, ...), and its new `m` and `v`."""
        m, v = slots
        m = m + (1 - self.beta_1) * (gradient - m)
        v = v + (1 - self.beta_2) * (tf.square(gradient) - v)
        count = tf.cast(count, weight.dtype)
        correction = tf.sqrt(1 - self.beta_2**count) / (1 - self.beta_1**count)
        return weight - learning_rate * correction * m / (tf.sqrt(v) + self.epsilon), [m, v]


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
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """One weight after an update, and its new `m`; `count` does not matter."""
        del count
        moved = -learning_rate * gradient
        if not slots:
            return weight + moved, []
        moved = self.momentum * slots[0] + moved
        return weight + moved, [moved]


Rule = Adam | Sgd


#: What `make` knows.
NAMES = ("adam", "sgd")


def make(name: str, lr: float, momentum: float) -> keras.optimizers.Optimizer:
    """The Keras optimizer of a setting: `adam`, or `sgd` with a momentum."""
    if name == "adam":
        return keras.optimizers.Adam(lr)
    return keras.optimizers.SGD(lr, momentum=momentum)


def rule(optimizer: keras.optimizers.Optimizer) -> Rule:
    """The update of a Keras `Adam` or `SGD`.

    Raises:
      ValueError: another optimizer, or one with an option that the pure form does not have.
    """
    config = optimizer.get_config()
    known = {
        keras.optimizers.Adam: (Adam, ("beta_1", "beta_2", "epsilon")),
        keras.optimizers.SGD: (Sgd, ("momentum",)),
    }
    if type(optimizer) not in known:
        raise ValueError(f"optimizer must be Adam or SGD, got {type(optimizer).__name__}")
    kind, names = known[type(optimizer)]
    plain = {*names, "name", "learning_rate", "ema_momentum"}
    extra = {name: value for name, value in config.items() if name not in plain and value}
    if extra:
        raise ValueError(f"optimizer must have none of the options {sorted(extra)}, got {extra}")
    return kind(**{name: config[name] for name in names})


def state(optimizer: keras.optimizers.Optimizer) -> list[tf.Tensor]:
    """A built optimizer's present state: the count of updates (int32), then every weight's slots.

    These are `optimizer.variables` but for the learning rate, which is an argument of the update.
    """
    values = [v.value for v in optimizer.variables if v is not optimizer.learning_rate]
    # int32 because not every runtime has 64-bit integers.
    return [tf.cast(values[0], tf.int32), *map(tf.convert_to_tensor, values[1:])]


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
    count, slots = state[0] + 1, state[1:]
    if len(slots) != rule.slots * len(weights):
        wanted = 1 + rule.slots * len(weights)
        raise ValueError(f"state must hold {wanted} tensors for {rule}, got {len(state)}")
    after, kept = [], [count]
    for k, (gradient, weight) in enumerate(zip(gradients, weights, strict=True)):
        mine = slots[k * rule.slots : (k + 1) * rule.slots]
        weight, mine = rule.update(gradient, weight, mine, count, learning_rate)
        after.append(weight)
        kept += mine
    return Updated(after, kept)
