"""Affine operations and ReLUs: the alphabet of a graph.

An operation is a frozen, hashable record of static geometry. It holds no weights: every method
takes them as arguments, so that one operation serves variables, cast copies and exported constants
alike, and a graph's structure can be the key of a compiled function.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Sequence

import tensorflow as tf

Shape = tuple[int, ...]


class Op(abc.ABC):
    """A node of a graph, with the shapes of what enters and leaves it: no batch, channels last."""

    @property
    @abc.abstractmethod
    def in_shape(self) -> Shape:
        """The shape of each input."""

    @property
    @abc.abstractmethod
    def out_shape(self) -> Shape:
        """The shape of the output."""


@dataclasses.dataclass(frozen=True)
class Input(Op):
    """The image itself, `shape`, in pixels."""

    shape: Shape

    @property
    def in_shape(self) -> Shape:
        """The shape of the image."""
        return self.shape

    out_shape = in_shape


@dataclasses.dataclass(frozen=True)
class Relu(Op):
    """`v = max(z, 0)`, elementwise on `shape`."""

    shape: Shape

    @property
    def in_shape(self) -> Shape:
        """The shape of the pre-activation."""
        return self.shape

    out_shape = in_shape


class AffineOp(Op):
    """`y = A x + b` on flattened tensors, with `A` never formed unless `as_matrix` is called."""

    #: Whether A only scales, so that |A| |B| = |A B| for every B.
    diagonal = False

    @property
    def weight_shapes(self) -> tuple[Shape, ...]:
        """The shapes of the weights that the methods take, in their order."""
        return ()

    @property
    def coefficients_count(self) -> int:
        """How many of the weights, the first ones, `A` depends on."""
        return len(self.weight_shapes)

    @abc.abstractmethod
    def linear(self, x: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        """`A x`: [n, *in_shape] to [n, *out_shape]."""

    @abc.abstractmethod
    def transpose(self, y: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        """`A^T y`: [n, *out_shape] to [n, *in_shape]."""

    def forward(self, x: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        """`A x + b`: [n, *in_shape] to [n, *out_shape]."""
        return self.linear(x, *weights)

    def absolute(self, x: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        """`|A| x`, the entries of A in absolute value: [n, *in_shape] to [n, *out_shape]."""
        return self.linear(x, *(tf.abs(w) for w in weights))

    def as_matrix(self, *weights: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
        """The dense matrix A: [prod(out_shape), prod(in_shape)], for tests and small graphs."""
        dtype = weights[0].dtype if weights else dtype
        size = math.prod(self.in_shape)
        columns = self.linear(
            tf.reshape(tf.eye(size, dtype=dtype), (size, *self.in_shape)), *weights
        )
        return tf.transpose(tf.reshape(columns, (size, math.prod(self.out_shape))))


@dataclasses.dataclass(frozen=True)
class Dense(AffineOp):
    """`y = x K + b` with weights `K` [inputs, units] and, where `use_bias`, `b` [units]."""

    inputs: int
    units: int
    use_bias: bool = True

    @property
    def in_shape(self) -> Shape:
        """One axis of `inputs` features."""
        return (self.inputs,)

    @property
    def out_shape(self) -> Shape:
        """One axis of `units` features."""
        return (self.units,)

    @property
    def weight_shapes(self) -> tuple[Shape, ...]:
        """Kernel [inputs, units] and bias [units]."""
        return ((self.inputs, self.units),) + ((self.units,),) * self.use_bias

    @property
    def coefficients_count(self) -> int:
        """The kernel alone."""
        return 1

    def linear(self, x: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        """`x K`."""
        return x @ weights[0]

    def transpose(self, y: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        """`y K^T`."""
        return tf.matmul(y, weights[0], transpose_b=True)

    def forward(self, x: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        """`x K + b`."""
        y = x @ weights[0]
        return y + weights[1] if self.use_bias else y


@dataclasses.dataclass(frozen=True)
class Reshape(AffineOp):
    """The same numbers, row-major, in another shape: Flatten and Reshape."""

    before: Shape
    after: Shape
    diagonal = True

    @property
    def in_shape(self) -> Shape:
        """The shape before."""
        return self.before

    @property
    def out_shape(self) -> Shape:
        """The shape after."""
        return self.after

    def linear(self, x: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        """`x` in its new shape."""
        return tf.reshape(x, (-1, *self.after))

    def transpose(self, y: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        """`y` in its old shape."""
        return tf.reshape(y, (-1, *self.before))


@dataclasses.dataclass(frozen=True)
class Add(AffineOp):
    """`y = x_1 + ... + x_count`, all of one `shape`; its transpose hands `y` to every branch."""

    shape: Shape
    count: int = 2

    @property
    def in_shape(self) -> Shape:
        """The shape of each branch."""
        return self.shape

    out_shape = in_shape

    def forward(self, *branches: tf.Tensor) -> tf.Tensor:
        """The sum of the branches, each [n, *shape]."""
        return tf.add_n(branches)

    def linear(self, x: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        """What one branch contributes: itself."""
        return x

    def transpose(self, y: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        """What each branch receives: `y`."""
        return y


@dataclasses.dataclass(frozen=True)
class Scale(AffineOp):
    """`y = scale * x + shift`, the two broadcast against `shape`.

    Every elementwise affine Keras layer becomes one. `kind` says what the weights are:

    * `"constant"`: no weights; `scale` and `shift` are the nested tuples in `constants`.
    * `"standardise"`: weights mean, variance; `(x - mean) / max(sqrt(variance), epsilon)`.
    * `"batch_norm"`: weights [gamma], [beta], mean, variance as `use_scale` and `use_centre` say;
      `gamma (x - mean) / sqrt(variance + epsilon) + beta`, the inference form.
    * `"slope"`, `"complement"`: one weight `a`; `a x` and `(1 - a) x`, the two parts of a PReLU.
    """

    shape: Shape
    kind: str = "constant"
    constants: tuple = (1.0, 0.0)
    weight_shape: Shape = ()
    epsilon: float = 0.0
    use_scale: bool = False
    use_centre: bool = False
    diagonal = True

    @property
    def in_shape(self) -> Shape:
        """The shape of the tensor that is scaled."""
        return self.shape

    out_shape = in_shape

    @property
    def weight_shapes(self) -> tuple[Shape, ...]:
        """As `kind` says, all of `weight_shape`."""
        count = {
            "constant": 0,
            "slope": 1,
            "complement": 1,
            "standardise": 2,
            "batch_norm": 2 + self.use_scale + self.use_centre,
        }
        return (self.weight_shape,) * count[self.kind]

    def coefficients(
        self, weights: Sequence[tf.Tensor], dtype: tf.DType
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """(scale, shift), each broadcastable to [*shape]."""
        if self.kind == "constant":
            scale, shift = self.constants
            return tf.constant(scale, dtype), tf.constant(shift, dtype)
        if self.kind in ("slope", "complement"):
            slope = weights[0] if self.kind == "slope" else 1.0 - weights[0]
            return slope, tf.zeros((), dtype)
        mean, variance = weights[-2:]
        if self.kind == "standardise":
            scale = 1.0 / tf.maximum(tf.sqrt(variance), tf.constant(self.epsilon, dtype))
            return scale, -mean * scale
        scale = tf.math.rsqrt(variance + tf.constant(self.epsilon, dtype))
        if self.use_scale:
            scale = scale * weights[0]
        shift = -mean * scale
        if self.use_centre:
            shift = shift + weights[int(self.use_scale)]
        return scale, shift

    def linear(self, x: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        """`scale * x`."""
        return x * self.coefficients(weights, x.dtype)[0]

    def transpose(self, y: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        """`scale * y`: a diagonal matrix is its own transpose."""
        return self.linear(y, *weights)

    def forward(self, x: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        """`scale * x + shift`."""
        scale, shift = self.coefficients(weights, x.dtype)
        return x * scale + shift

    def absolute(self, x: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        """`|scale| * x`."""
        return x * tf.abs(self.coefficients(weights, x.dtype)[0])
