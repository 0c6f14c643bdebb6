"""The operations that read windows of an image, as `operations` has the others."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from .operations import Affine, Counts, Shape, largest


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
        return np.asarray(sum(tap(v[where], at) for at, where in self._taps()))

    def _spread(self, rows: np.ndarray, tap) -> np.ndarray:
        (top, bottom), (left, right) = self.padding
        height, width, channels = self.in_shape
        padded = np.zeros(
            (len(rows), top + height + bottom, left + width + right, channels), rows.dtype
        )
        for at, where in self._taps():
            padded[where] += tap(rows, at)
        return padded[:, top : top + height, left : left + width]


class Convolution(Windows):
    """A convolution with kernel [kh, kw, channels, filters]."""

    def __init__(
        self, shape: Shape, kernel: np.ndarray, bias, strides: Shape, padding, channels: int
    ):
        """`channels`: how many an output reads."""
        self.read = channels
        super().__init__(shape, kernel.shape[:2], strides, padding, kernel.shape[3])
        self.kernel, self.bias = kernel, bias
        self.largest = largest(kernel, bias)

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
        """The transposed convolution, of all taps in one product."""
        taps = self.kernel.reshape(-1, self.kernel.shape[-1])
        shape = (*rows.shape[:3], *self.size, self.in_shape[2])
        parts = (rows.reshape(-1, self.kernel.shape[-1]) @ taps.T).reshape(shape)
        return self._spread(rows, lambda _, at: parts[:, :, :, *at])

    @property
    def products(self):
        """Numbers that a transposed row multiplies."""
        return math.prod(self.out_shape) * math.prod(self.kernel.shape[:3])

    @property
    def counts(self):
        """Window and channels; window and filters; the bias and a cast."""
        window = math.prod(self.size)
        written = self.out_shape[2] * self.read // self.in_shape[2]
        return Counts(window * self.read, window * written, 2)


def spread_kernel(kernel: np.ndarray, dilation: Shape) -> np.ndarray:
    """A kernel with its taps `dilation` apart, zeros between them."""
    size = [(k - 1) * d + 1 for k, d in zip(kernel.shape[:2], dilation, strict=True)]
    found = np.zeros((*size, *kernel.shape[2:]), kernel.dtype)
    found[:: dilation[0], :: dilation[1]] = kernel
    return found


def grouped_kernel(kernel: np.ndarray, groups: int) -> np.ndarray:
    """A kernel [kh, kw, channels / groups, filters] as one of all channels."""
    height, width, channels, filters = kernel.shape
    found = np.zeros((height, width, channels * groups, filters), kernel.dtype)
    share = filters // groups
    for g in range(groups):
        own = np.s_[g * share : (g + 1) * share]
        found[:, :, g * channels : (g + 1) * channels, own] = kernel[..., own]
    return found


class AveragePool(Windows):
    """The mean of each channel over the whole window; padding counts as zeros."""

    def __init__(self, shape: Shape, size: Shape, strides: Shape, padding):
        super().__init__(shape, size, strides, padding, shape[2])

    def _mean(self, v):
        size = math.prod(self.size)
        return v * Fraction(1, size) if v.dtype == object else v / size

    def linear(self, v):
        """Means."""
        return self._mean(self._apply(v, lambda part, at: part))

    def transpose(self, rows):
        """Each mean's share to every tap."""
        return self._spread(self._mean(rows), lambda part, at: part)

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
