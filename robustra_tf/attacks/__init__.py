"""Attacks: searches for inputs near an image that a network classifies wrongly.

What they find is a lower bound on the true robust error: failing to find proves nothing.
"""

from robustra_tf.attacks.pair import PairAttack, PairAttackResult
from robustra_tf.attacks.pgd import LOSSES, Attack, AttackResult
from robustra_tf.attacks.replay import Replay, contained, replay
from robustra_tf.pair import Pair

__all__ = [
    "LOSSES",
    "Attack",
    "AttackResult",
    "PairAttack",
    "PairAttackResult",
    "Replay",
    "attack",
    "contained",
    "fgsm",
    "replay",
]


def attack(model, x, y=None, eps=None, **options) -> AttackResult:
    """Projected gradient descent with the defaults of `Attack`, once: see `Attack.__call__`.

    Of a `Property` or of outputs in place of labels too. Of a `Pair`, with the option `goal`, by
    `PairAttack`.

    Example:
      >>> rt.attack(model, x, y, eps=0.4).success
      array([ True])
      >>> rt.attack(model, x, rt.above(0, 0.75), eps=0.1).success
      array([ True])
    """
    return _attack(model, options)(x, y, eps)


def fgsm(model, x, y=None, eps=None, **options) -> AttackResult:
    """The fast gradient method: one steepest step of length `eps` from each image itself.

    Example:
      >>> print(rt.attacks.fgsm(model, x, y, eps=0.4).adversarial.round(2))
      [[0.4 0.6]]
    """
    once = {"steps": 1, "restarts": 1, "relative_step": 1.0}
    return _attack(model, {**options, **once})(x, y, eps)


def _attack(model, options) -> Attack:
    return PairAttack(model, **options) if isinstance(model, Pair) else Attack(model, **options)
