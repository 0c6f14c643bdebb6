"""How bounds are computed: one value that travels through every layer."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from robustra_tf.bounds.balls import Ball, Box, ball
from robustra_tf.vocabulary import INNER, NORMS, PROJECTED_NORMS

#: Which rows are computed: every neuron's; only those that intervals leave undecided; or
#: whichever of the two takes less time, decided batch by batch.
ROWS = ("every", "needed", "auto")
#: Bytes that one slice of rows may take.
DEFAULT_BUDGET = 256 * 2**20


@dataclasses.dataclass(frozen=True)
class BoundOptions:
    """How the bounds of a network over balls are computed.

    Attributes:
      rows: one of `ROWS`. Only `"every"` has static shapes, as `jit_compile=True` needs them, and
        bounds every pre-activation by the dual; the others leave the intervals of neurons that
        these prove stable. The margins are the same.
      budget: bytes that one slice of rows may take.
      inner: where bounds of inner layers come from, one of `INNER`: Wong and Kolter's dual,
        intervals, or the intersection of the two (`mixed`); or that of the dual, of intervals and
        of CROWN's backward passes for both ends of each neuron, with its own slopes (`crown`) or
        with slopes that are optimised (`alpha`).
      norm: of the balls that are made of these options; a given `Ball` has its own.
      projection: estimate the inner ranges of the dual by so many random vectors; 0 bounds them.

    Raises:
      ValueError: an option out of its range, or a projection that does not go with the others.

    Example:
      >>> options = rt.BoundOptions(inner="mixed")
      >>> options.rows, options.norm
      ('auto', 'linf')
    """

    rows: str = "auto"
    budget: float = DEFAULT_BUDGET
    inner: str = "dual"
    norm: str = "linf"
    projection: int = 0

    def __post_init__(self):
        for name, allowed in (("rows", ROWS), ("inner", INNER), ("norm", NORMS)):
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        if not self.budget > 0:
            raise ValueError(f"budget must be above 0, in bytes, got {self.budget!r}")
        check_projection(self.projection, self.norm)
        if self.projection and self.inner != "dual":
            raise ValueError(
                f"projection must be 0 with inner bounds by {self.inner!r}, got {self.projection}"
            )

    def ball(self, x: tf.Tensor, eps: tf.Tensor, box: Box | None = None) -> Ball:
        """The balls of radius `eps` in `norm` about images `x`, cut to `box` where one is given."""
        return ball(x, eps, self.norm, box)


def check_projection(size: int, norm: str) -> None:
    """Refuses a number of random vectors (0: none) that makes no sense for the norm of the ball.

    Raises:
      ValueError: a negative number, or any for `l1`.
    """
    if size < 0:
        raise ValueError(f"projection must be at least 0, got {size}")
    if size and norm not in PROJECTED_NORMS:
        raise ValueError(
            f"projection must be 0 for norm {norm!r}, whose dual norm, the largest entry, no "
            f"projection estimates, got {size}"
        )
