"""What was decided of an image."""

from __future__ import annotations

import dataclasses
import enum

import numpy as np


class Status(enum.StrEnum):
    """What is known of an image."""

    VERIFIED = "verified"  # no point of the ball is classified wrongly, no outputs are unsafe
    FALSIFIED = "falsified"  # those of `witness` are
    UNKNOWN = "unknown"
    TIMEOUT = "timeout"  # unknown, for want of time


@dataclasses.dataclass(frozen=True, eq=False)
class Verdict:
    """What was decided of one image, or of one example of a property.

    Attributes:
      status: as `Status` says.
      margin_lower: a proven lower bound of `min_t logit_y - logit_t` over the ball, or None; of a
        property, over its groups of the least of the greatest margins. It stops at what the
        question needed, so it is no estimate of the margin.
      target: the class of the witness, or the target of the least bound; of a property, the number
        of the group of conditions.
      witness: an image in the ball and the box that the model classifies as `target`, or whose
        outputs are unsafe, float32 [*input_shape], or None.
      seconds: all of it.
      unstable: ReLUs on either side, by the bounds before any linear programme.
      binaries: ReLUs left to decide in the last search; 0 where none was needed.
      nodes: of all searches.
      solves: of linear or mixed-integer programmes.
      search: which searches took it, in order, such as "branch batched"; empty where bounds or the
        model's own values decided.
      reason: why it is unknown; empty otherwise.
      proof: the content of the file that proves it, or None.
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
    search: str = ""
    reason: str = ""
    proof: bytes | None = dataclasses.field(default=None, repr=False)
