"""What is asked of a network: which inputs, and what they must not make of its outputs."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from robustra_tf.conditions import Conditions, Output
from robustra_tf.intake import checks
from robustra_tf.outputs import classified
from robustra_tf.property_files import InFiles
from robustra_tf.radii import chosen, outward, shown
from robustra_tf.vocabulary import NORMS, Question

if TYPE_CHECKING:
    from robustra_tf.graph.graph import Structure
    from robustra_tf.intake.subject import Subject

#: An interval for every pixel, [n or 1, *shape] each, or (lo, hi) for all of them.
Interval = tuple[np.ndarray, np.ndarray] | checks.Box


@dataclasses.dataclass(frozen=True, eq=False)
class Property(InFiles, Question):
    """No input between two arrays, and within a ball if one is given, has unsafe outputs.

    A property speaks of `n` examples at once. What is given is broadcast to [n, *shape], `shape` of
    one input.

    Attributes:
      lower, upper: the box, an interval for every entry of an input; infinite ends only where there
        is a ball.
      output: what must not be reached: `classified`, `targeted`, `binary`, `below`,
        `above`, `unreachable`.
      centre: of the ball, in the box; None for the box alone.
      eps: radius of the ball, in the units of the input: a number, or an array that broadcasts to
        the centre; for `l2` and `l1` one for each example.
      norm: of the ball: `linf`, `l2` or `l1`.

    Raises:
      ValueError: arrays that do not fit each other, numbers that are none, an interval or a ball
        that is empty.

    Example:
      >>> box = rt.Property([[0.7, 0.0]], [[0.9, 0.3]], rt.classified(0))
      >>> certificate = rt.certify(model, box)
      >>> certificate.verified, certificate.margin_lower.round(2)
      (array([ True]), array([[0. , 0.4]], dtype=float32))
    """

    lower: Any
    upper: Any
    output: Output
    centre: Any = None
    eps: Any = None
    norm: str = "linf"

    def __post_init__(self):
        checks.member("norm", self.norm, NORMS)
        if not isinstance(self.output, Output):
            kind = type(self.output).__name__
            raise ValueError(f"output must be made by rt.classified or its like, got {kind}")
        if (self.centre is None) != (self.eps is None):
            missing = "centre" if self.centre is None else "eps"
            raise ValueError(f"{missing} must be given with the other of centre and eps, got None")
        if self.centre is None and self.norm != "linf":
            raise ValueError(f"norm must be linf where there is no ball, got {self.norm!r}")
        for name, values in self._given().items():
            object.__setattr__(self, name, values)
        self._check_box()
        if self.centre is not None:
            self._check_ball()
        if self.output.count not in (1, len(self)):
            raise ValueError(f"output must be for {len(self)} examples, got {self.output.count}")

    def _given(self) -> dict[str, np.ndarray]:
        """The arrays, all of one shape."""
        names = ["lower", "upper"] + ["centre"] * (self.centre is not None)
        arrays = [checks.numbers(name, getattr(self, name)) for name in names]
        try:
            arrays = np.broadcast_arrays(*arrays)
        except ValueError:
            shapes = ", ".join(str(array.shape) for array in arrays)
            raise ValueError(f"{', '.join(names)} must fit each other, got {shapes}") from None
        if arrays[0].ndim < 2:
            raise ValueError(f"lower must have shape [n, *shape], got {arrays[0].shape}")
        return dict(zip(names, arrays, strict=True))

    def _check_box(self) -> None:
        for name in ("lower", "upper"):
            values = getattr(self, name)
            if np.isnan(values).any():
                raise ValueError(f"{name} must be numbers, got NaN")
            if self.centre is None and not np.isfinite(values).all():
                raise ValueError(f"{name} must be finite where there is no ball, got infinity")
        if not (self.lower <= self.upper).all():
            at = tuple(np.argwhere(~(self.lower <= self.upper))[0].tolist())
            ends = f"{self.lower[at]:g} > {self.upper[at]:g}"
            raise ValueError(f"lower must be at most upper, got {ends} at {at}")

    def _check_ball(self) -> None:
        if not np.isfinite(self.centre).all():
            raise ValueError("centre must be finite, got NaN or infinity")
        if not ((self.lower <= self.centre) & (self.centre <= self.upper)).all():
            raise ValueError("centre must lie between lower and upper, got an entry outside")
        eps = checks.radius(self.eps, self.norm, None, self.centre.shape[1:], len(self))
        object.__setattr__(self, "eps", eps)

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.lower)

    @classmethod
    def around(
        cls, x: Any, eps: Any, output: Output, norm: str = "linf", box: checks.Box | None = (0, 1)
    ) -> Property:
        """The balls of radius `eps` about images, cut to one interval for all pixels.

        Args:
          x: images [n, *shape].
          eps, output, norm: as the attributes.
          box: (lo, hi), or None.
        """
        ends = checks.box(box) or (-np.inf, np.inf)
        return cls(*ends, output, centre=x, eps=eps, norm=norm)

    @property
    def text(self) -> str:
        """What is asked, for people."""
        if self.centre is None:
            return f"boxes, {self.output.text}"
        cut = "" if np.isinf(self.lower).all() and np.isinf(self.upper).all() else " within boxes"
        return f"{self.norm} balls of radius {shown(self.eps)}{cut}, {self.output.text}"

    def __repr__(self) -> str:
        return f"Property(n={len(self)}, inputs {self.lower.shape[1:]}, {self.text})"


class Query(NamedTuple):
    """A question in the form that it is worked with: balls about images, cut to a box.

    Attributes:
      x: [n, *shape], images within the box.
      eps: a radius, or radii as `checks.radius` gives them.
      norm: of the ball.
      box: of every pixel, or None.
      output: what must not be reached.
      labels: [n], where that is to be classified otherwise; None of outputs.
      given: the property, if it is one; None of images, radius and labels or outputs.
    """

    x: np.ndarray
    eps: float | np.ndarray
    norm: str
    box: Interval | None
    output: Output
    labels: np.ndarray | None = None
    given: Property | None = None

    @property
    def numbers(self) -> checks.Box | None:
        """The box where it is one interval for all pixels."""
        if self.box is None or np.ndim(self.box[0]):
            return None
        # Ends without axes are the numbers that `checks.box` gives.
        return cast(checks.Box, self.box)

    @property
    def classes(self) -> np.ndarray:
        """The labels [n] of a question that has some; a `TypeError` of any other one."""
        if self.labels is None:
            raise TypeError("labels: expected a question of labels, got one of outputs")
        return self.labels

    @property
    def exact(self) -> Query:
        """The same without rounding, in float64 where it is a property."""
        return self if self.given is None else balls(self.given, "float64")

    def unrounded(self, x: Any) -> Query:
        """`exact`; of images with labels the same about the images `x` as they were given."""
        if self.labels is None:
            return self.exact
        x = np.asarray(x, np.float64)
        return self._replace(x=x if self.box is None else np.clip(x, *self.box))

    def conditions(self, outputs: int) -> Conditions:
        """What must not be reached, of so many outputs."""
        return self.output.conditions(outputs)._replace(labels=self.labels)

    def take(self, index: np.ndarray) -> Query:
        """The question of some examples."""
        parts = {"x": self.x[index], "eps": chosen(self.eps, index)}
        parts["box"] = None if self.box is None else tuple(chosen(e, index) for e in self.box)
        parts["labels"] = None if self.labels is None else self.labels[index]
        return self._replace(output=self.output.take(index), **parts)


def asked(
    network: Subject, x: Any, y: Any, eps: Any, norm: str, box: Any, kind: str = "float64"
) -> Query:
    """What a door is called with: a property, or images, a radius and labels or outputs.

    Args:
      network: of which it is asked.
      x: a property, which has all the rest; or images.
      y: labels, or what must not be reached.
      eps, norm, box: the balls about the images.
      kind: the type that is worked in, `float32` or `float64`.

    Raises:
      ValueError: an argument out of its range, or one too many or too few, by name; labels for a
        network of one logit.
    """
    structure = network.structure
    check_parts(x, y, eps, norm, box)
    if isinstance(x, Property):
        return _fitting(x, structure, kind)
    box = checks.box(box)
    if not isinstance(y, Output):
        network.check_rival()
    shape, (outputs,) = structure.input_shape, structure.output_shape
    x = checks.images(x, shape, box, kind)
    eps = checks.radius(eps, norm, box, shape, len(x))
    if isinstance(y, Output):
        return _fitting(Property.around(x, eps, y, norm, box), structure, kind)
    checks.held("eps", eps, kind)
    return by_labels(x, checks.labels(y, len(x), outputs), eps, norm, box)


def check_parts(x: Any, y: Any, eps: Any, norm: str, box: Any) -> None:
    """Refuses what is missing beside images, and what is too much beside a property."""
    if isinstance(x, Property):
        _check_alone(x, y, eps, norm, box)
        return
    for name, value in (("y", y), ("eps", eps)):
        if value is None:
            raise ValueError(f"{name} must be given beside images, got None")
    checks.member("norm", norm, NORMS)


def by_labels(x: np.ndarray, y: np.ndarray, eps: Any, norm: str, box: Any) -> Query:
    """The question of images with labels [n], which are checked already."""
    return Query(x, eps, norm, box, dataclasses.replace(classified(0), parts=(y,)), y)


def _check_alone(given: Property, y: Any, eps: Any, norm: str, box: Any) -> None:
    """Refuses what a property has itself, unless it is the default."""
    wrong = {"y": y is not None, "eps": eps is not None}
    wrong["norm"] = norm not in ("linf", given.norm)
    wrong["box"] = checks.box(box) not in (None, (0, 1))
    values = {"y": y, "eps": eps, "norm": norm, "box": box}
    for name in (name for name, found in wrong.items() if found):
        value = " ".join(repr(values[name]).split())
        raise ValueError(f"{name} must be left out beside a property, which has its own: {value}")


def _fitting(given: Property, structure: Structure, kind: str) -> Query:
    """`balls`, where the property's inputs and outputs are the network's."""
    shape, (outputs,) = tuple(structure.input_shape), structure.output_shape
    if given.lower.shape[1:] != shape:
        raise ValueError(f"lower must have shape [n, *{shape}], got {given.lower.shape}")
    given.output.conditions(outputs)
    if given.eps is not None:
        checks.held("eps", given.eps, kind)
    return balls(given, kind)


def balls(given: Property, kind: str) -> Query:
    """A property as balls about images in the type that is worked in.

    A box alone is the ball about its middle that reaches its ends. Ends of boxes that the type does
    not have are rounded outward.

    Args:
      given: the property.
      kind: `float32` or `float64`.
    """
    low, high = outward(given.lower, given.upper, kind)
    if given.centre is None:
        x = np.clip((0.5 * given.lower + 0.5 * given.upper).astype(kind), low, high)
        away = np.maximum(high.astype(np.float64) - x, x - low.astype(np.float64))
        eps = away * (1 + 1e-6) + np.finfo("float32").tiny
    else:
        x, eps = np.clip(given.centre.astype(kind), low, high), given.eps
    free = np.isinf(low).all() and np.isinf(high).all()
    box = None if free else (low, high)
    return Query(x, eps, given.norm, box, given.output, None, given)
