"""What the library's doors are called with, checked: one line that names the argument.

Each returns its argument in the type that is worked with, or raises `ValueError`. Nothing here
imports TensorFlow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from robustra_tf.vocabulary import Question, largest_radius

Box = tuple[float, float]
DTYPES = ("float32", "float64")


def number(value: Any) -> float | None:
    """`value` as a float where it is one real number, NumPy's or a tensor's too; None otherwise."""
    try:
        array = np.asarray(value)
    except Exception:  # Whatever a foreign object's conversion raises.
        return None
    real = np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)
    return float(array) if array.ndim == 0 and real else None


def numbers(name: str, value: Any) -> np.ndarray:
    """An array of real numbers, float64, of any shape."""
    try:
        array = np.asarray(value)
    except Exception as error:  # Whatever a foreign object's conversion raises.
        raise ValueError(f"{name} must be numbers, got {type(value).__name__}") from error
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} must be numbers, got {array.dtype} of shape {array.shape}")
    return array.astype(np.float64)


def member(name: str, value: Any, allowed: Iterable[str]) -> str:
    """`value` where it is one of `allowed`."""
    names = tuple(allowed)
    if not isinstance(value, str) or value not in names:
        raise ValueError(f"{name} must be one of {', '.join(names)}, got {value!r}")
    return value


def dtype(value: Any) -> str:
    """`float32` or `float64`, given by name, as NumPy's or as TensorFlow's type."""
    name = getattr(value, "name", value)
    if isinstance(value, type) and issubclass(value, np.floating):
        name = value.__name__
    if not isinstance(name, str) or name not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {value!r}")
    return name


def whole(name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def box(value: Any) -> Box | None:
    """(lo, hi), finite, or None."""
    if value is None:
        return None
    try:
        ends = [number(end) for end in value]
    except TypeError:
        ends = []
    known = [end for end in ends if end is not None]
    if not (len(ends) == len(known) == 2 and -math.inf < known[0] < known[1] < math.inf):
        shown = " ".join(repr(value).split())
        raise ValueError(f"box must be (lo, hi), two numbers with lo < hi, or None, got {shown}")
    return known[0], known[1]


def radius(
    value: Any, norm: str, cut: Box | None, shape: Sequence[int], count: int = 1
) -> float | np.ndarray:
    """Radii in pixels, at most the diameter of the images in the box.

    Args:
      value: the radius given, or an array that broadcasts to the images [count, *shape]; for `l2`
        and `l1` one for each image.
      norm: of the ball.
      cut: the box, as `box` gives it; None for no limit.
      shape: of one image.
      count: of images.

    Returns:
      A number, or radii of as many axes as the images, float64.
    """
    eps = number(value)
    if eps is None and hasattr(value, "__len__") and not isinstance(value, str | bytes):
        return radii(value, norm, cut, shape, count)
    if eps is None or not 0 <= eps < math.inf:
        shown = " ".join(repr(value).split())
        raise ValueError(f"eps must be one finite number of pixels >= 0, got {shown}")
    _check_diameter(eps, norm, cut, shape)
    return eps


def radii(value: Any, norm: str, cut: Box | None, shape: Sequence[int], count: int) -> np.ndarray:
    """As `radius`, of an array."""
    eps, whole_shape = numbers("eps", value), (count, *shape)
    try:
        fits = np.broadcast_shapes(eps.shape, whole_shape) == whole_shape
    except ValueError:
        fits = False
    if not fits:
        hint = ""
        if eps.shape == (count,):
            hint = f": radii by image have shape {(count, *(1,) * len(shape))}"
        raise ValueError(
            f"eps must be a number or broadcast to {whole_shape}, got shape {eps.shape}{hint}"
        )
    if not ((eps >= 0) & (eps < math.inf)).all():
        raise ValueError("eps must be finite numbers of pixels >= 0, got others")
    eps = eps.reshape((1,) * (1 + len(shape) - eps.ndim) + eps.shape)
    if norm != "linf" and math.prod(eps.shape[1:]) != 1:
        raise ValueError(f"eps must be one number for each {norm} ball, got shape {eps.shape}")
    _check_diameter(float(eps.max(initial=0.0)), norm, cut, shape)
    return eps


def held(name: str, value: float | np.ndarray, kind: str) -> None:
    """Refuses numbers that are infinite in the type `kind`."""
    largest, greatest = np.finfo(kind).max, np.max(value, initial=0.0)
    if greatest > largest:
        raise ValueError(f"{name} must be at most {largest:g} in {kind}, got {greatest:g}")


def _check_diameter(eps: float, norm: str, cut: Box | None, shape: Sequence[int]) -> None:
    if cut is not None:
        largest = largest_radius(norm, shape) * (cut[1] - cut[0])
        if eps > largest:
            raise ValueError(
                f"eps must be at most {largest:g}, the {norm} diameter of the box "
                f"[{cut[0]:g}, {cut[1]:g}], got {eps:g}{likely(eps, largest, cut)}"
            )


def likely(eps: float, largest: float, cut: Box = (0.0, 1.0)) -> str:
    """A question for a radius that seems to count in 255ths; nothing where that does not fit."""
    share = eps / 255
    if cut[1] - cut[0] != 1 or not 0 < share <= largest:
        return ""
    return f": did you mean {eps:g}/255 = {share:.4f}?"


def plain(door: str, x: Any, y: Any = None) -> None:
    """Refuses a property, or outputs in place of labels, where the door takes none."""
    for name, value, wanted in (("x", x, "images"), ("y", y, "labels")):
        if isinstance(value, Question):
            raise ValueError(
                f"{name} must be {wanted} for {door}, got a {type(value).__name__}: certify, "
                "margin_bounds, attack and Verifier take those"
            )


def images(x: Any, shape: Sequence[int], cut: Box | None, kind: str) -> np.ndarray:
    """Images [n, *shape] of type `kind`: finite, within the box."""
    try:
        x = np.asarray(x, kind)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"x must be an array of numbers, got {type(x).__name__}: {reason}"
        ) from error
    if x.ndim == 0 or x.shape[1:] != tuple(shape):
        raise ValueError(f"x must have shape [n, *{tuple(shape)}], got {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError("x must be finite, got NaN or infinity")
    if cut is not None and x.size and not (x.min() >= cut[0] and x.max() <= cut[1]):
        factor = ": divide them by 255?" if cut == (0, 1) and 0 <= x.min() <= x.max() <= 255 else ""
        raise ValueError(
            f"x must lie in the box [{cut[0]:g}, {cut[1]:g}], got values in "
            f"[{x.min():g}, {x.max():g}]{factor}"
        )
    return x


def labels(y: Any, count: int, classes: int) -> np.ndarray:
    """Labels int32 [count], each one of the classes."""
    y = integers(y, count)
    if y.size and not (y.min() >= 0 and y.max() < classes):
        raise ValueError(f"y must lie in 0..{classes - 1}, got {y.min()}..{y.max()}")
    return y.astype(np.int32)


def integers(y: Any, count: int) -> np.ndarray:
    """As `labels`, of a number of classes that is not known yet: integers as they are given."""
    y = np.asarray(y)
    if y.ndim == 1 and not y.size:
        y = y.astype(np.int32)
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"y must be one axis of integers, got {y.dtype} of shape {y.shape}")
    if len(y) != count:
        raise ValueError(f"y must have a label for each of the {count} images, got {len(y)}")
    return y
