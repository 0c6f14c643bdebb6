"""Attacks: searches for inputs near an image that a network classifies wrongly.

What they find is a lower bound on the true robust error: failing to find proves nothing.
"""

from robustra_tf.attacks.pgd import LOSSES, Attack, AttackResult
from robustra_tf.attacks.replay import Replay, contained, replay

__all__ = ["LOSSES", "Attack", "AttackResult", "Replay", "attack", "contained", "fgsm", "replay"]


def attack(model, x, y=None, eps=None, **options) -> AttackResult:
    """Projected gradient descent with the defaults of `Attack`, once: see `Attack.__call__`.

    Of a `Property` or of outputs in place of labels too.

    Example:
      >>> rt.attack(model, x, y, eps=0.4).success
      array([ True])
      >>> rt.attack(model, x, rt.above(0, 0.75), eps=0.1).success
      array([ True])
    """
    return Attack(model, **options)(x, y, eps)


def fgsm(model, x, y=None, eps=None, **options) -> AttackResult:
    """The fast gradient method: one steepest step of length `eps` from each image itself.

    Example:
      >>> print(rt.attacks.fgsm(model, x, y, eps=0.4).adversarial.round(2))
      [[0.4 0.6]]
    """
    return Attack(model, **options, steps=1, restarts=1, relative_step=1.0)(x, y, eps)
