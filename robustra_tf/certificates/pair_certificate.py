"""What is proven of a pair on some images."""

from __future__ import annotations

import dataclasses

import numpy as np

from robustra_tf import counting
from robustra_tf.bounds.balls import Box
from robustra_tf.certificates import tables
from robustra_tf.radii import shown


@dataclasses.dataclass(frozen=True, eq=False)
class PairCertificate(tables.Table):
    """What is proven of two networks as one classifier, which abstains where they differ.

    A *silent error* is an input for which both networks answer the same wrong class.

    Attributes:
      margin_lower: [n, classes] lower bounds over each ball of the best mix
        `a (f_y - f_t) + (1 - a) (g_y - g_t)`, `a` in [0, 1]; entry `y` is 0. Where one is positive
        no input of the ball has `f_t >= f_y` and `g_t >= g_y`: the two never agree on `t`.
      f_margin, g_margin: [n, classes] those of `f_y - f_t` and of `g_y - g_t` alone.
      labels: [n] the labels `y`.
      predicted: [n] what the pair answers at the images themselves; -1 where it abstains.
      f_predicted, g_predicted: [n] what each network answers there; -1 where its logits are no
        finite numbers.
      eps, norm, box, method, mode: as `Certificate` has them.

    Example:
      >>> certificate = rt.certify(rt.Pair(f, g), x, y, eps=0.1)
      >>> certificate.certified, certificate.answered
      (array([ True]), array([ True]))
    """

    margin_lower: np.ndarray
    f_margin: np.ndarray
    g_margin: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    f_predicted: np.ndarray
    g_predicted: np.ndarray
    eps: float | np.ndarray
    norm: str
    box: Box | None
    method: str
    mode: str

    @property
    def worst_margin(self) -> np.ndarray:
        """The smallest margin over all targets other than the label, [n]; -inf of none proven."""
        return counting.least_margin(self.margin_lower, self.labels)

    @property
    def worst_target(self) -> np.ndarray:
        """The target of the smallest margin, integers [n]."""
        return counting.over_rivals(self.margin_lower, self.labels).argmin(1)

    @property
    def certified(self) -> np.ndarray:
        """Whether no input of the ball makes both networks answer the same wrong class: [n].

        All margins are finite and positive, and at the image itself the pair answers the label or
        abstains. A certified image may be one where the pair abstains.
        """
        quiet = (self.predicted == self.labels) | (self.predicted == counting.NO_CLASS)
        found = counting.certified(self.margin_lower, self.labels)
        return found & quiet & counting.there(self.eps)

    @property
    def answered(self) -> np.ndarray:
        """Whether both networks answer the label on the whole ball, so that the pair does: [n]."""
        f = counting.certified(self.f_margin, self.labels, self.f_predicted)
        g = counting.certified(self.g_margin, self.labels, self.g_predicted)
        return f & g & counting.there(self.eps)

    def columns(self) -> dict[str, np.ndarray]:
        """What is known image by image, as columns of equal length."""
        return {
            "index": np.arange(len(self.labels)),
            "label": self.labels,
            "predicted": self.predicted,
            "certified": self.certified,
            "answered": self.answered,
            "worst_target": self.worst_target,
            "worst_margin": self.worst_margin,
        }

    def summary(self) -> str:
        """What was proven, as lines to print: silent errors, abstention, and what the pair says.

        The clean error counts images that the pair answers wrongly, the clean abstention those that
        it does not answer. The silent error under attack is at most the share that is not
        certified; an attack may make the pair abstain, or err, on at most the share that is not
        certified to be answered.
        """
        n = len(self.labels)
        box = "" if self.box is None else f" cut to [{self.box[0]:g}, {self.box[1]:g}]"
        right, wrong, none = self._counts()
        certified, answered = int(self.certified.sum()), int(self.answered.sum())
        lines = [
            f"{n} images, {self.norm} balls of radius {shown(self.eps)} in pixels{box}, "
            f"{self.method} bound of a pair, {self.mode}",
            f"  {right} of {n} answered rightly; clean error {_share(wrong, n)}, "
            f"clean abstention {_share(none, n)}",
            f"  {certified} of {n} certified ({_share(certified, n)}): no input of the ball makes "
            "both networks answer one wrong class",
            f"  {answered} of {n} certified to be answered ({_share(answered, n)}): both networks "
            "answer the label on the whole ball",
        ]
        if n:
            lines.insert(3, f"    silent error at most {_share(n - certified, n)}")
            lines.append(f"    forced abstention at most {_share(n - answered, n)}")
            least, median = self.worst_margin.min(), np.median(self.worst_margin)
            lines.append(f"  lower bounds of the margins: least {least:.3g}, median {median:.3g}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        right, wrong, none = self._counts()
        return (
            f"PairCertificate(n={len(self.labels)}, right={right}, wrong={wrong}, abstained={none},"
            f" certified={int(self.certified.sum())}, answered={int(self.answered.sum())}, "
            f"eps={shown(self.eps)}, norm={self.norm!r}, box={self.box}, method={self.method!r}, "
            f"mode={self.mode!r})"
        )

    def _counts(self) -> tuple[int, int, int]:
        """How many the pair answers rightly, wrongly, and not at all."""
        right, none = self.predicted == self.labels, self.predicted == counting.NO_CLASS
        return int(right.sum()), int((~right & ~none).sum()), int(none.sum())


def _share(part: int, n: int) -> str:
    return f"{part / max(n, 1):.2%}"
