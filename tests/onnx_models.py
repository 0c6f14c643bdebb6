"""Random networks of the layers that ONNX is written from, and single nodes of ONNX.

Weights keep numbers around one, so that what differs differs by more than rounding.
"""

import contextlib

import keras
import numpy as np
import onnx
from keras import layers
from onnx import TensorProto, helper, numpy_helper


class Drawn:
    """Layers drawn one after another."""

    def __init__(self, rng):
        self.rng = rng

    def one_of(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def pair(self, most):
        return tuple(int(n) for n in self.rng.integers(1, most + 1, 2))

    def activation(self):
        return self.one_of(
            layers.ReLU,
            lambda: layers.ReLU(max_value=0.7),
            lambda: layers.LeakyReLU(negative_slope=0.1),
            lambda: layers.Activation("relu"),
            lambda: layers.Dropout(0.3),
        )()

    def scaled(self, x):
        channels = x.shape[-1]
        mean, spread = self.rng.normal(size=channels) * 0.3, self.rng.uniform(0.5, 2, channels)
        return self.one_of(
            lambda: layers.Rescaling(spread.tolist(), offset=mean.tolist()),
            lambda: layers.Rescaling(-1.5),
            lambda: layers.Normalization(mean=mean.tolist(), variance=spread.tolist()),
            lambda: layers.BatchNormalization(scale=bool(self.rng.integers(2))),
        )()(x)

    def windowed(self, x):
        size, strides = self.pair(3), self.pair(2)
        fits = all(k <= n for k, n in zip(size, x.shape[1:3], strict=True))
        padding = self.one_of("same", "valid") if fits else "same"
        pool = (size, strides, padding)
        return self.one_of(
            *[lambda: self.convolved(size, strides, padding, x.shape[-1])] * 3,
            lambda: layers.MaxPooling2D(*pool),
            lambda: layers.AveragePooling2D(*pool),
        )()(x)

    def convolved(self, size, strides, padding, channels):
        if strides != (1, 1) and channels == 1:
            strides = (1, 1)  # Keras's own float32 may be wrong there
        kind = self.rng.integers(4)
        if kind == 0:
            return layers.DepthwiseConv2D(size, strides[0], padding, depth_multiplier=2)
        dilation = 2 if kind == 1 and padding == "same" else 1
        strides = (1, 1) if dilation > 1 else strides
        groups = channels if kind == 2 else 1
        filters = groups * int(self.rng.integers(1, 3))
        bias = bool(self.rng.integers(2))
        return layers.Conv2D(
            filters,
            size,
            strides,
            padding,
            dilation_rate=dilation,
            groups=groups,
            use_bias=bias,
            activation=self.one_of(None, "relu"),
        )

    def moved(self, x):
        shape = tuple(x.shape[1:])
        kinds = [lambda: layers.ZeroPadding2D(((0, 1), (2, 1)))]
        kinds += [lambda: layers.Permute((2, 3, 1)), lambda: layers.Permute((2, 1, 3))]
        kinds += [lambda: layers.Reshape((shape[1], shape[0], shape[2]))]
        if min(shape[:2]) > 2:
            kinds += [lambda: layers.Cropping2D(((1, 0), (0, 1)))]
        return self.one_of(*kinds)()(x)

    def joined(self, x):
        image = len(x.shape) == 4
        branch = (
            layers.Conv2D(x.shape[-1], 3, padding="same") if image else layers.Dense(x.shape[-1])
        )
        other = self.one_of(lambda: x, lambda: layers.ReLU()(x), lambda: self.scaled(x))()
        return self.one_of(layers.Add, layers.Subtract, layers.Concatenate)()([branch(x), other])

    def grown(self, x):
        kinds = [lambda t: self.activation()(t), self.scaled, self.joined]
        if len(x.shape) == 4:
            kinds += [self.windowed] * 3 + [self.moved]
        else:
            kinds += [lambda t: layers.Dense(4, activation=self.one_of(None, "relu"))(t)] * 2
        return self.one_of(*kinds)(x)


def model(rng) -> keras.Model:
    """A functional model of up to five random layers or blocks before its outputs."""
    drawn = Drawn(rng)
    inputs = keras.Input(drawn.one_of((5,), (4, 5, 2), (5, 5, 3), (3, 3, 3)))
    x = inputs
    for _ in range(rng.integers(1, 6)):
        x = drawn.grown(x)
        if len(x.shape) == 4 and np.prod(x.shape[1:]) > 300:
            x = layers.AveragePooling2D(2)(x)
    if len(x.shape) == 4:
        x = drawn.one_of(layers.Flatten, layers.Flatten, layers.GlobalAveragePooling2D)()(x)
    found = keras.Model(inputs, layers.Dense(3)(x))
    for weight in found.weights:
        if "variance" in weight.path:
            weight.assign(rng.uniform(0.5, 2, weight.shape))
        elif weight.path.endswith("kernel"):
            fan = max(np.prod(weight.shape[:-1]), 1)
            weight.assign(rng.normal(size=weight.shape) / np.sqrt(fan))
        elif "seed" not in weight.path:
            weight.assign(rng.normal(size=weight.shape) * 0.3)
    return found


def graph(nodes, shape, weights=None, opset=13, output="y"):
    """A `ModelProto` of nodes that take `x` of a shape to `y`."""
    names = ((name, shape if name == "x" else None) for name in ("x", output))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in names]
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in (weights or {}).items()]
    made = helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", opset)]
    found = helper.make_model(made, opset_imports=opsets, ir_version=7)
    with contextlib.suppress(onnx.shape_inference.InferenceError):
        found = onnx.shape_inference.infer_shapes(found)
    if not found.graph.output[0].type.tensor_type.HasField("shape"):
        found.graph.output[0].CopyFrom(helper.make_tensor_value_info(output, 1, [1, "n"]))
    return found


def node(kind, inputs, output="y", **attributes):
    return helper.make_node(kind, list(inputs), [output], name=f"the_{kind}", **attributes)


def saved(path, proto):
    path.write_bytes(proto.SerializeToString())
    return path


def uniform(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)
