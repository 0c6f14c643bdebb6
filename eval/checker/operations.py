"""The operations of a certified network, in float64 NumPy: `y = A v + b`, and what a checker asks.

Arrays have the batch, or rows, first and channels last.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]


class Counts(NamedTuple):
    """Numbers that rounding errors grow with.

    Attributes:
      terms: summed up for an output.
      rows: summed up for a coefficient that is carried backward.
      extra: roundings of a term beside those of the sum.
    """

    terms: int
    rows: int
    extra: int


class Affine:
    """One affine operation; `in_shape` and `out_shape` without the batch."""

    in_shape: Shape
    out_shape: Shape
    #: Whether A only scales single entries.
    diagonal = False
    #: Whether floating-point arithmetic computes it without any rounding.
    exact = False
    #: The largest absolute value among the coefficients.
    largest = 1.0
    #: Whether the coefficients can be computed to their last digits.
    sane = True

    def linear(self, v: np.ndarray) -> np.ndarray:
        """`A v`."""
        raise NotImplementedError

    def forward(self, *v: np.ndarray) -> np.ndarray:
        """`A v + b`."""
        return self.linear(*v)

    def absolute(self, *v: np.ndarray) -> np.ndarray:
        """`|A| v`."""
        return self.linear(*v)

    def sizes(self, *v: np.ndarray) -> np.ndarray:
        """`|A| v + |b|`, for `v >= 0`: the absolute values of all that is added up."""
        return self.absolute(*v)

    def present(self, *v: np.ndarray) -> np.ndarray | int:
        """How many terms of each output are not zero for sure, for `v >= 0`."""
        return self.counts.terms

    def transpose(self, rows: np.ndarray) -> np.ndarray:
        """`A^T row` for every row."""
        raise NotImplementedError

    @property
    def counts(self) -> Counts:
        """What rounding grows with."""
        return Counts(1, 1, 0)


class Dense(Affine):
    """`v K + b`."""

    def __init__(self, kernel: np.ndarray, bias: np.ndarray | None):
        self.kernel, self.bias = kernel, bias
        self.in_shape, self.out_shape = kernel.shape[:1], kernel.shape[1:]
        self.largest = _largest(kernel, bias)

    def linear(self, v):
        """`v K`."""
        return v @ self.kernel

    def forward(self, v):
        """`v K + b`."""
        return self.linear(v) if self.bias is None else self.linear(v) + self.bias

    def absolute(self, v):
        """`v |K|`."""
        return v @ np.abs(self.kernel)

    def sizes(self, v):
        """`v |K| + |b|`."""
        return self.absolute(v) if self.bias is None else self.absolute(v) + np.abs(self.bias)

    def present(self, v):
        """Inputs and weights that are not zero."""
        return (v != 0).astype(np.float64) @ (self.kernel != 0).astype(np.float64)

    def transpose(self, rows):
        """`row K^T`."""
        return rows @ self.kernel.T

    @property
    def counts(self):
        """Inputs; units; the bias and a cast."""
        return Counts(*self.kernel.shape, 2)


class Windows(Affine):
    """What moves a window over a padded image by strides, tap by tap."""

    def __init__(self, shape: Shape, size: Shape, strides: Shape, padding, filters: int):
        self.in_shape, self.size, self.strides, self.padding = shape, size, strides, padding
        places = tuple(
            (n + sum(p) - k) // s + 1
            for n, p, k, s in zip(shape[:2], padding, size, strides, strict=True)
        )
        self.out_shape = (*places, filters)

    def _taps(self):
        """For each tap its number and where the padded image is read."""
        (sy, sx), (my, mx, _) = self.strides, self.out_shape
        for a in range(self.size[0]):
            for b in range(self.size[1]):
                yield (a, b), np.s_[:, a : a + sy * my : sy, b : b + sx * mx : sx]

    def _apply(self, v: np.ndarray, tap) -> np.ndarray:
        v = np.pad(v, ((0, 0), *self.padding, (0, 0)))
        return sum(tap(v[where], at) for at, where in self._taps())

    def _spread(self, rows: np.ndarray, tap) -> np.ndarray:
        (top, bottom), (left, right) = self.padding
        height, width, channels = self.in_shape
        padded = np.zeros((len(rows), top + height + bottom, left + width + right, channels))
        for at, where in self._taps():
            padded[where] += tap(rows, at)
        return padded[:, top : top + height, left : left + width]


class Convolution(Windows):
    """A convolution with kernel [kh, kw, channels, filters]."""

    def __init__(self, shape: Shape, kernel: np.ndarray, bias, strides: Shape, padding):
        super().__init__(shape, kernel.shape[:2], strides, padding, kernel.shape[3])
        self.kernel, self.bias = kernel, bias
        self.largest = _largest(kernel, bias)

    def linear(self, v):
        """The convolution without bias."""
        return self._apply(v, lambda part, at: part @ self.kernel[at])

    def forward(self, v):
        """With its bias."""
        return self.linear(v) if self.bias is None else self.linear(v) + self.bias

    def absolute(self, v):
        """With the kernel's absolute values."""
        kernel = np.abs(self.kernel)
        return self._apply(v, lambda part, at: part @ kernel[at])

    def sizes(self, v):
        """The same with the bias's."""
        return self.absolute(v) if self.bias is None else self.absolute(v) + np.abs(self.bias)

    def present(self, v):
        """Inputs and weights that are not zero."""
        kernel = (self.kernel != 0).astype(np.float64)
        return self._apply((v != 0).astype(np.float64), lambda part, at: part @ kernel[at])

    def transpose(self, rows):
        """The transposed convolution."""
        return self._spread(rows, lambda part, at: part @ self.kernel[at].T)

    @property
    def counts(self):
        """Window and channels; window and filters; the bias and a cast."""
        window = math.prod(self.size)
        return Counts(window * self.in_shape[2], window * self.out_shape[2], 2)


class AveragePool(Windows):
    """The mean of each channel over the whole window; padding counts as zeros."""

    def __init__(self, shape: Shape, size: Shape, strides: Shape, padding):
        super().__init__(shape, size, strides, padding, shape[2])

    def linear(self, v):
        """Means."""
        return self._apply(v, lambda part, at: part) / math.prod(self.size)

    def transpose(self, rows):
        """Each mean's share to every tap."""
        return self._spread(rows / math.prod(self.size), lambda part, at: part)

    @property
    def counts(self):
        """The window twice; the division, perhaps by a reciprocal, and a cast."""
        return Counts(math.prod(self.size), math.prod(self.size), 4)


class Pad(Affine):
    """Zeros around an image."""

    diagonal = exact = True

    def __init__(self, shape: Shape, padding):
        self.in_shape, self.padding = shape, padding
        sides = (n + sum(p) for n, p in zip(shape[:2], padding, strict=True))
        self.out_shape = (*sides, shape[2])

    def linear(self, v):
        """`v` amid zeros."""
        return np.pad(v, ((0, 0), *self.padding, (0, 0)))

    def transpose(self, rows):
        """Without the border."""
        (top, _), (left, _) = self.padding
        return rows[:, top : top + self.in_shape[0], left : left + self.in_shape[1]]


class Reshape(Affine):
    """The same entries in another shape."""

    exact = True

    def __init__(self, before: Shape, after: Shape):
        self.in_shape, self.out_shape = before, after

    def linear(self, v):
        """`v` in its new shape."""
        return v.reshape(-1, *self.out_shape)

    def transpose(self, rows):
        """Back in the old shape."""
        return rows.reshape(-1, *self.in_shape)


class Add(Affine):
    """The sum of several inputs of one shape."""

    def __init__(self, shape: Shape, count: int):
        self.in_shape = self.out_shape = shape
        self.count = count

    def linear(self, *v):
        """The sum."""
        return sum(v[1:], v[0])

    def transpose(self, rows):
        """To every branch alike."""
        return rows

    @property
    def counts(self):
        """The branches."""
        return Counts(self.count, 1, 0)


class Scale(Affine):
    """`scale (v - mean) + shift`, elementwise, however it is evaluated."""

    diagonal = True

    def __init__(self, shape: Shape, scale, mean, shift, others=(), sane: bool = True):
        self.in_shape = self.out_shape = shape
        self.scale, self.mean, self.shift = scale, mean, shift
        self.largest = _largest(scale, mean, shift, *others)
        self.sane = sane

    def linear(self, v):
        """`scale v`."""
        return v * self.scale

    transpose = linear

    def forward(self, v):
        """`scale (v - mean) + shift`."""
        return (v - self.mean) * self.scale + self.shift

    def absolute(self, v):
        """`|scale| v`."""
        return v * np.abs(self.scale)

    def sizes(self, v):
        """`|scale| (v + |mean|) + |shift|`."""
        return (v + np.abs(self.mean)) * np.abs(self.scale) + np.abs(self.shift)

    @property
    def counts(self):
        """A square root within 4 ulp, a quotient, products and sums: ten, and to spare."""
        return Counts(1, 1, 16)


def normalisation(shape: Shape, weights: dict[str, np.ndarray], epsilon: float, floor: bool):
    """`gamma (v - mean) / sqrt(variance + epsilon) + beta`.

    With `floor`, the divisor is `max(sqrt(variance), epsilon)` instead.
    """
    mean, variance = weights["mean"], weights["variance"]
    room = epsilon**2 if floor else epsilon
    sane = bool(((variance >= 0) & (variance + room >= 2.0**-100)).all())
    with np.errstate(all="ignore"):
        root = np.maximum(np.sqrt(variance), epsilon) if floor else np.sqrt(variance + epsilon)
        scale = weights.get("scale", 1.0) / root
    shift = weights.get("centre", np.float64(0.0))
    return Scale(shape, scale, mean, shift, weights.values(), sane)


def _largest(*arrays) -> float:
    return max(float(np.max(np.abs(a), initial=0.0)) for a in arrays if a is not None)
