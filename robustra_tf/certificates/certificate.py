"""What is proven of a model on some images."""

from __future__ import annotations

import dataclasses

import numpy as np

from robustra_tf import counting
from robustra_tf.bounds.balls import Box
from robustra_tf.certificates import tables
from robustra_tf.conditions import by_group
from robustra_tf.property import Property
from robustra_tf.radii import shown


@dataclasses.dataclass(frozen=True, eq=False)
class Certificate(tables.Table):
    """What is proven of a model on some images.

    Attributes:
      margin_lower: [n, classes] lower bounds of `f_y - f_t` over each ball; entry `y` is 0.
      labels: [n] the labels `y`.
      predicted: [n] the predicted classes at the images themselves; -1 where logits are no finite
        numbers.
      eps: the radius, in pixels; or radii, [n or 1, ...] with as many axes as the images.
      norm: the norm of the ball.
      box: the interval that every pixel keeps to, or None.
      method: the bound that proved it.
      mode: what its numbers take account of: `float32` or `float64`, no rounding, computed in that
        type; `sound`, rounding of the bound and of the model's own float32 forward pass.

    Raises:
      TypeError: margins that are no array of bounds, such as estimates by projections.

    Example:
      >>> certificate = rt.certify(model, x, y, eps=0.1)
      >>> certificate.certified
      array([ True])
      >>> certificate.predicted.tolist(), certificate.worst_target.tolist()
      ([0], [1])
    """

    margin_lower: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    eps: float | np.ndarray
    norm: str
    box: Box | None
    method: str
    mode: str

    def __post_init__(self):
        if not isinstance(self.margin_lower, np.ndarray):
            kind = type(self.margin_lower).__name__
            raise TypeError(f"margin_lower must be an array of lower bounds, got {kind}")

    @property
    def worst_margin(self) -> np.ndarray:
        """The smallest margin over all targets other than the label, [n].

        -inf where nothing is proven: where one is no finite number, or there is no other target.
        """
        return counting.least_margin(self.margin_lower, self.labels)

    @property
    def worst_target(self) -> np.ndarray:
        """The target of the smallest margin, integers [n]."""
        if self.margin_lower.shape[1] < 2:
            return np.zeros(len(self.labels), int)
        return counting.over_rivals(self.margin_lower, self.labels).argmin(1)

    @property
    def certified(self) -> np.ndarray:
        """Whether no input of the ball can be classified otherwise than `y`: boolean [n].

        As `counting.certified` has it: all margins finite and positive, at least one of them, and
        the image itself classified as `y`. A radius below 0 has an empty ball: nothing is proven.
        """
        found = counting.certified(self.margin_lower, self.labels, self.predicted)
        return found & counting.there(self.eps)

    def columns(self) -> dict[str, np.ndarray]:
        """What is known image by image, as columns of equal length."""
        return {
            "index": np.arange(len(self.labels)),
            "label": self.labels,
            "predicted": self.predicted,
            "certified": self.certified,
            "worst_target": self.worst_target,
            "worst_margin": self.worst_margin,
        }

    def by_class(self) -> dict[str, np.ndarray]:
        """For each class that occurs: images, shares correct and certified, the median margin."""
        right, certified, margin = self.predicted == self.labels, self.certified, self.worst_margin
        measures = {
            "correct": lambda place: right[place].mean(),
            "certified": lambda place: certified[place].mean(),
            "median_margin": lambda place: np.median(margin[place]),
        }
        return tables.by_class(self.labels, measures)

    def summary(self) -> str:
        """What was proven, as lines to print: of how many images, and how clearly."""
        n = len(self.labels)
        box = "" if self.box is None else f" cut to [{self.box[0]:g}, {self.box[1]:g}]"
        certified, correct = self._counts()
        share = certified / max(n, 1)
        lines = [
            f"{n} images, {self.norm} balls of radius {shown(self.eps)} in pixels{box}, "
            f"{self.method} bound, {self.mode}",
            f"  {correct} of {n} correct ({correct / max(n, 1):.2%})",
            f"  {certified} of {n} certified ({share:.2%})",
        ]
        if n:
            least, median = self.worst_margin.min(), np.median(self.worst_margin)
            lines[-1] += f": robust error at most {1 - share:.2%}"
            lines.append(f"  lower bounds of the margins: least {least:.3g}, median {median:.3g}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        certified, correct = self._counts()
        return (
            f"Certificate(n={len(self.labels)}, correct={correct}, certified={certified}, "
            f"eps={shown(self.eps)}, norm={self.norm!r}, box={self.box}, method={self.method!r}, "
            f"mode={self.mode!r})"
        )

    def _counts(self) -> tuple[int, int]:
        """How many are certified, and how many correct."""
        return int(self.certified.sum()), int((self.predicted == self.labels).sum())


@dataclasses.dataclass(frozen=True, eq=False)
class PropertyCertificate:
    """What is proven of a model about a property, example by example.

    A condition `c . f + d >= 0` has the margin `-(c . f + d)`: where it is positive the condition
    does not hold. A group of conditions is kept out where one of them has a positive margin.

    Attributes:
      margin_lower: [n, k] lower bounds of the margins over each set of inputs; 0 of no condition,
        as of a label over itself.
      group: [n, k] integers, the group of each condition; -1 where there is none.
      safe: boolean [n], whether the model's own outputs at the middle of each set are finite and
        keep to the property.
      asked: the property.
      method: the bound that proved it.
      mode: as `Certificate` has it.

    Example:
      >>> certificate = rt.certify(model, x, rt.below(1, 0.35), eps=0.1)
      >>> certificate.verified, certificate.margin_lower.round(2)
      (array([ True]), array([[0.05]], dtype=float32))
    """

    margin_lower: np.ndarray
    group: np.ndarray
    safe: np.ndarray
    asked: Property
    method: str
    mode: str

    @property
    def verified(self) -> np.ndarray:
        """Whether no input of the set has unsafe outputs: boolean [n].

        As `counting.verified` has it: of every group a finite margin above 0, and safe outputs at
        the middle of the set.
        """
        return counting.verified(self.margin_lower, self.group) & self.safe

    @property
    def worst_margin(self) -> np.ndarray:
        """The margin of the worst group, [n]: of each group the greatest counts.

        -inf where nothing is proven.
        """
        proven = np.where(np.isfinite(self.margin_lower), self.margin_lower, -np.inf)
        best = by_group(proven, self.group, np.maximum, -np.inf)
        asked = by_group(np.ones(self.group.shape), self.group, np.maximum, 0.0) > 0
        found = np.where(asked, best, np.inf).min(1, initial=np.inf)
        return np.where(asked.any(1), found, -np.inf)

    def summary(self) -> str:
        """What was proven, as lines to print."""
        n, verified = len(self.safe), int(self.verified.sum())
        lines = [
            f"{n} examples, {self.asked.text}; {self.method} bound, {self.mode}",
            f"  {int(self.safe.sum())} of {n} keep to it in the middle of their sets",
            f"  {verified} of {n} verified ({verified / max(n, 1):.2%})",
        ]
        if n:
            least, median = self.worst_margin.min(), np.median(self.worst_margin)
            lines.append(f"  lower bounds of the margins: least {least:.3g}, median {median:.3g}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return (
            f"PropertyCertificate(n={len(self.safe)}, verified={int(self.verified.sum())}, "
            f"{self.asked.text}, method={self.method!r}, mode={self.mode!r})"
        )
