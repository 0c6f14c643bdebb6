"""The operations of a certified network, in float64 NumPy: `y = A v + b`, and what a checker asks.

Arrays have the batch, or rows, first and channels last.
"""

from __future__ import annotations

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
        self.largest = largest(kernel, bias)

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
        inputs, units = self.kernel.shape
        return Counts(inputs, units, 2)


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
        self.largest = largest(scale, mean, shift, *others)
        self.sane = sane

    def linear(self, v):
        """`scale v`."""
        return v * self.scale

    def transpose(self, rows):
        """`scale row`: a diagonal matrix is its own transpose."""
        return self.linear(rows)

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


def largest(*arrays) -> float:
    """The greatest absolute value in all of them."""
    return max(float(np.max(np.abs(a), initial=0.0)) for a in arrays if a is not None)
