"""What was decided of an image."""

from __future__ import annotations

import dataclasses
import enum

import numpy as np


class Status(enum.StrEnum):
    """What is known of an image."""

    VERIFIED = "verified"  # no point of the ball is classified wrongly
    FALSIFIED = "falsified"  # `witness` is
    UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True, eq=False)
class Verdict:
    """What was decided of one image.

    Attributes:
      status: as `Status` says.
      margin_lower: a proven lower bound of `min_t logit_y - logit_t` over the ball, or None. It
        stops at what the question needed, so it is no estimate of the margin.
      target: the class of the witness, or the target of the least bound.
      witness: an image in the ball and the box that the model classifies as `target`, float32
        [*input_shape], or None.
      seconds: all of it.
      unstable: ReLUs on either side, by the bounds before any linear programme.
      binaries: ReLUs left to decide in the last search; 0 where none was needed.
      nodes: of all searches.
      solves: of linear or mixed-integer programmes.
      reason: why it is unknown; empty otherwise.
    """

    status: Status
    margin_lower: float | None
    target: int | None
    witness: np.ndarray | None
    seconds: float
    unstable: int = 0
    binaries: int = 0
    nodes: int = 0
    solves: int = 0
    reason: str = ""
