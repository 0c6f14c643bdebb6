"""What of a certificate needs no derivation."""

from __future__ import annotations

import numpy as np

from .claim import Claim
from .rejection import RejectedError


def check_plain(claim: Claim) -> None:
    """What needs no derivation."""
    if not np.isfinite(claim.x).all():
        raise RejectedError("input", "x", "holds numbers that are not finite")
    if (
        claim.walls is not None
        and not ((claim.walls[0] <= claim.x) & (claim.x <= claim.walls[1])).all()
    ):
        raise RejectedError("input", "x", "leaves its box")
    classes = claim.nodes[-1].shape[0]
    for name in ("labels", "predicted") if claim.labels is not None else ():
        values = getattr(claim, name)
        if not ((values >= 0) & (values < classes)).all():
            raise RejectedError("logits", name, f"holds a number outside 0..{classes - 1}")


def check_classes(claim: Claim, predicted: np.ndarray) -> None:
    """The predicted classes are those of the greatest logits at the images."""
    values = [claim.x]
    for node in claim.nodes[1:]:
        inputs = [values[i] for i in node.inputs]
        relu = node.op == "relu"
        values.append(np.maximum(inputs[0], 0.0) if relu else node.affine.forward(*inputs))
    logits = values[-1]
    found = logits[np.arange(len(logits)), predicted]
    room = 1e-4 * (1 + np.abs(logits).max(1))
    if not (found >= logits.max(1) - room).all():
        raise RejectedError("logits", "predicted", "another class has the greatest logit")
