"""Risk against coverage: classifiers that answer only where their lead is large enough.

With the threshold `tau`, an image is answered where the greatest logit leads all others by at least
`tau`; of a pair, in both networks, which have to agree. A silent error within the ball needs
`f_t - f_y >= tau` for a wrong class `t`, in both networks of a pair. So none is possible where the
lower bound of the least margin is above `-tau`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Curve(NamedTuple):
    """By falling coverage, [k] each: thresholds, shares answered, shares not certified."""

    threshold: np.ndarray
    coverage: np.ndarray
    risk: np.ndarray


def curve(lead: np.ndarray, margin: np.ndarray) -> Curve:
    """The curve of all thresholds that change the coverage, from 0 on.

    Args:
      lead: at the images themselves, [n], minus infinity where nothing is answered.
      margin: lower bounds of the least margins over the balls, [n].
    """
    lead, margin = np.asarray(lead, np.float64), np.asarray(margin, np.float64)
    threshold = np.unique(np.concatenate([[0.0], lead[np.isfinite(lead) & (lead > 0)]]))
    return Curve(
        threshold,
        1.0 - np.searchsorted(np.sort(lead), threshold, "left") / len(lead),
        risk(margin, threshold),
    )


def risk(margin: np.ndarray, threshold: np.ndarray | float) -> np.ndarray:
    """The share of images that are not certified at thresholds, [k].

    Args:
      margin: lower bounds of the least margins, [n]; what is no number proves nothing.
      threshold: [k], or one.
    """
    known = np.where(np.isnan(margin), -np.inf, margin)
    # margin <= -tau: a tie is no proof.
    return np.searchsorted(np.sort(known), -np.asarray(threshold), "right") / len(known)


def threshold_for(lead: np.ndarray, abstention: float) -> float:
    """The largest threshold at which at most a share of the images is left without an answer.

    Args:
      lead: at the images themselves, [n].
      abstention: the share.
    """
    allowed = int(np.floor(abstention * len(lead) + 1e-9))
    found = np.sort(np.asarray(lead, np.float64))
    return float(max(found[min(allowed, len(found) - 1)], 0.0))
