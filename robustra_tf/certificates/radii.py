"""How far images can move: the largest certified radius of each, and the smallest attacked one."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from robustra_tf.bounds.balls import Box
from robustra_tf.certificates import tables


class Curve(NamedTuple):
    """Accuracy against the radius: the true robust accuracy lies between the two.

    Attributes:
      radius: in pixels, increasing, [k].
      certified: shares of the images that are certified at the radius, [k].
      attacked: shares that are correct, and of which no attack succeeded at the radius, [k].
    """

    radius: np.ndarray
    certified: np.ndarray
    attacked: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Radii(tables.Table):
    """How far each image can move, in pixels.

    Attributes:
      certified: [n] the largest radius at which a certificate was computed and positive; 0 where
        there is none.
      attacked: [n] the smallest radius at which a point of the ball, run through the model again,
        is classified wrongly; infinite where none was found.
      labels: [n] the labels.
      predicted: [n] the predicted classes at the images themselves; -1 where logits are no finite
        numbers. Where it is not the label, both radii are 0.
      norm, box: of the balls.
      method: what proved the certificates: a bound's name, or `complete`.
      mode: as `Certificate.mode` has it.
      tolerance: to which the radii were searched for.

    Example:
      The least margin of the ball is that of its corner (0.8 - r, 0.2 + r), 0 where r is 0.3:

      >>> radii = rt.certified_radius(model, x, y)
      >>> radii.certified.round(2), radii.attacked.round(2)
      (array([0.3]), array([0.3]))
      >>> radii.curve([0.0, 0.1, 0.5]).certified
      array([1., 1., 0.])
    """

    certified: np.ndarray
    attacked: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    norm: str
    box: Box | None
    method: str
    mode: str
    tolerance: float

    @property
    def correct(self) -> np.ndarray:
        """Whether each image itself is classified as its label, boolean [n]."""
        return self.predicted == self.labels

    def curve(self, radii: Any = None) -> Curve:
        """Certified and attacked accuracy against the radius.

        Args:
          radii: in pixels, at least 0; those at which either changes by default, and 0.

        Raises:
          ValueError: a radius below 0, or none that is a number.
        """
        if radii is None:
            ends = np.concatenate([[0.0], self.certified, self.attacked])
            radii = np.unique(ends[np.isfinite(ends)])
        radii = np.asarray(radii, float)
        if radii.ndim != 1 or not (radii >= 0).all():
            raise ValueError(f"radii must be one axis of numbers of at least 0, got {radii}")
        count = max(len(self.labels), 1)
        holds = self.correct & (self.certified >= radii[:, None])
        resists = self.correct & (self.attacked > radii[:, None])
        return Curve(radii, holds.sum(1) / count, resists.sum(1) / count)

    def columns(self) -> dict[str, np.ndarray]:
        """What is known image by image: `index`, `label`, `predicted`, `certified`, `attacked`."""
        return {
            "index": np.arange(len(self.labels)),
            "label": self.labels,
            "predicted": self.predicted,
            "certified": self.certified,
            "attacked": self.attacked,
        }

    def by_class(self) -> dict[str, np.ndarray]:
        """For each class that occurs: images, share correct, and the medians of both radii."""
        measures = {
            "correct": lambda place: self.correct[place].mean(),
            "median_certified": lambda place: np.median(self.certified[place]),
            "median_attacked": lambda place: np.median(self.attacked[place]),
        }
        return tables.by_class(self.labels, measures)

    def summary(self) -> str:
        """What was found, as lines to print."""
        n, correct = len(self.labels), int(self.correct.sum())
        box = "" if self.box is None else f" cut to [{self.box[0]:g}, {self.box[1]:g}]"
        lines = [
            f"{n} images, {self.norm} balls in pixels{box}, {self.method} bound, {self.mode}, "
            f"to {self.tolerance:g}",
            f"  {correct} of {n} correct ({correct / max(n, 1):.2%})",
        ]
        if n:
            lines += [_spread("certified", self.certified), _spread("attacked", self.attacked)]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return (
            f"Radii(n={len(self.labels)}, correct={int(self.correct.sum())}, norm={self.norm!r}, "
            f"box={self.box}, method={self.method!r}, mode={self.mode!r}, "
            f"tolerance={self.tolerance:g})"
        )


def _spread(name: str, radii: np.ndarray) -> str:
    # Of infinite radii no number lies between two: the nearest one below is taken.
    low, middle, high = np.quantile(radii, (0.25, 0.5, 0.75), method="lower")
    return f"  {name} radii: median {middle:.4g}, the middle half from {low:.4g} to {high:.4g}"
