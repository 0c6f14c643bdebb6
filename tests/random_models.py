"""Random Keras models of every supported layer, drawn by hypothesis.

A drawn model is small: an image of at most 5x5 pixels or a vector, up to six layers or blocks of
branches, logits. Its weights are normal numbers at a scale drawn for each layer, some of them zero.
"""

import keras
import numpy as np
from hypothesis import strategies as st
from keras import layers

#: What multiplies weights that keep pre-activations around one. Ordinary scales are drawn most.
SCALES = (0.0, 1e-30, 1e-6, 0.1, 0.5, 1.0, 1.0, 1.0, 1.5, 1.5, 3.0, 30.0, 1e4)

PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))
STRIDES = st.tuples(st.integers(1, 2), st.integers(1, 2))
PADDING = st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2)
SEEDS = st.integers(0, 2**32 - 1)


def model(draw) -> keras.Model:
    """A built model, pixels to at least two logits.

    Args:
      draw: `st.data().draw` of a test: decides layers, scales and seeds. (This is no strategy of
        its own: Keras draws seeds from Python's random numbers, which strategies must not.)
    """
    drawn = _Drawn(draw)
    shape = draw(st.sampled_from([(4,), (7,), (4, 4, 1), (5, 4, 2), (3, 5, 3), (5, 5, 1)]))
    inputs = keras.Input(shape)
    x = inputs
    for _ in range(draw(st.integers(0, 6))):
        x = drawn.grown(x)
    if len(x.shape) > 2:
        x = layers.Flatten()(x)
    x = drawn.dense(draw(st.integers(2, 4)), draw(st.sampled_from([None, None, "relu"])))(x)
    found = keras.Model(inputs, x)
    if not any(isinstance(layer, layers.Add | keras.Model) for layer in found.layers):
        found = draw(st.sampled_from([found, keras.Sequential(found.layers)]))
    randomise(found, draw)
    return found


class _Drawn:
    """Layers drawn one after another."""

    def __init__(self, draw):
        self.draw = draw

    def one_of(self, *choices):
        return self.draw(st.sampled_from(choices))

    def grown(self, x):
        """`x` after one more layer or block."""
        kinds = [self.activation, self.scaled, self.branched, self.nested, self.reshaped]
        if len(x.shape) == 4:
            kinds += [self.convolved] * 4 + [self.pooled, self.padded, self.flat]
        else:
            kinds += [self.connected] * 3
        return self.one_of(*kinds)(x)

    def fused(self):
        """What may stand behind a layer's `activation=`."""
        return self.one_of(None, "linear", "relu", "relu", layers.ReLU())

    def conv(self, filters, size, strides, padding):
        bias = self.draw(st.booleans())
        return layers.Conv2D(
            filters, size, strides, padding, use_bias=bias, activation=self.fused()
        )

    def dense(self, units, activation):
        return layers.Dense(units, use_bias=self.draw(st.booleans()), activation=activation)

    def convolved(self, x):
        size, strides = self.draw(PAIRS), self.draw(STRIDES)
        fits = all(k <= n for k, n in zip(size, x.shape[1:3], strict=True))
        padding = self.one_of("same", "valid") if fits else "same"
        if x.shape[3] == 1 and strides[0] == 1:
            # Keras's own float32 convolution may be wrong where other strides leave one column.
            strides = (1, 1)
        return self.conv(self.draw(st.integers(1, 3)), size, strides, padding)(x)

    def connected(self, x):
        return self.dense(self.draw(st.integers(1, 7)), self.fused())(x)

    def pooled(self, x):
        size, strides = self.draw(PAIRS), self.draw(STRIDES)
        fits = all(k <= n for k, n in zip(size, x.shape[1:3], strict=True))
        padding = self.one_of("same", "valid") if fits else "same"
        return layers.AveragePooling2D(size, strides, padding)(x)

    def padded(self, x):
        if max(x.shape[1:3]) > 5:
            return x
        return layers.ZeroPadding2D(self.draw(PADDING))(x)

    def flat(self, x):
        return layers.Flatten()(x)

    def reshaped(self, x):
        if len(x.shape) == 4:
            height, width, channels = x.shape[1:]
            shape = self.one_of((width, height, channels), (height, -1, 1), (-1,))
        else:
            size = x.shape[1]
            shape = self.one_of((1, 1, size), (size, 1, 1), (1, size, 1), (size,))
        return layers.Reshape(shape)(x)

    def activation(self, x):
        relu = self.one_of(layers.ReLU, lambda: layers.Activation("relu"))
        return self.one_of(relu, relu, lambda: layers.Dropout(0.5))()(x)

    def scaled(self, x):
        channels = x.shape[-1]
        rng = np.random.default_rng(self.draw(SEEDS))
        factors = rng.normal(size=channels).tolist()
        spread = rng.uniform(0.01, 2.0, size=channels).tolist()
        return self.one_of(
            lambda: layers.BatchNormalization(scale=rng.random() < 0.6, center=rng.random() < 0.6),
            lambda: layers.BatchNormalization(epsilon=1e-5),
            lambda: layers.Rescaling(factors, offset=spread),
            lambda: layers.Rescaling(-2.5, offset=0.3),
            lambda: layers.Normalization(mean=factors, variance=spread),
            layers.Normalization,  # its statistics are weights
        )()(x)

    def branched(self, x):
        """Two or three branches of one shape, or `x` added to itself."""
        count = self.draw(st.integers(2, 3))
        image = len(x.shape) == 4
        down = self.draw(st.booleans())
        width, stride = self.draw(st.integers(1, 3)), self.draw(st.integers(1, 2))
        branches = []
        for _ in range(count):
            branch = x
            for _ in range(self.draw(st.integers(0, 1 if down else 2))):
                branch = self._kept(branch)
            if down and image:
                branch = self.conv(width, self.draw(PAIRS), stride, "same")(branch)
            elif down:
                branch = self.dense(width, self.fused())(branch)
            branches.append(branch)
        return layers.Add()(branches)

    def _kept(self, x):
        """`x` after a layer that keeps its shape, perhaps one applied twice."""
        kind = self.one_of("weights", "weights", "activation", "scaled", "shared")
        if kind == "activation":
            return self.activation(x)
        if kind == "scaled":
            return self.scaled(x)
        if len(x.shape) == 4:
            layer = self.conv(x.shape[-1], self.draw(PAIRS), 1, "same")
        else:
            layer = self.dense(x.shape[-1], self.fused())
        return layer(layer(x)) if kind == "shared" else layer(x)

    def nested(self, x):
        """A model of its own as a layer."""
        inputs = keras.Input(x.shape[1:])
        outputs = self._kept(inputs)
        return keras.Model(inputs, outputs)(x)


def randomise(model: keras.Model, draw) -> None:
    """Fills the weights, each layer at a scale of its own; in one of four some are zero."""
    rng = np.random.default_rng(draw(SEEDS))
    for layer in model._flatten_layers(include_self=False, recursive=True):
        if isinstance(layer, layers.BatchNormalization):
            _statistics(layer.moving_mean, layer.moving_variance, rng)
            if layer.scale:
                layer.gamma.assign(rng.normal(size=layer.gamma.shape) * draw(_SCALE))
            if layer.center:
                layer.beta.assign(rng.normal(size=layer.beta.shape))
        elif isinstance(layer, layers.Normalization) and layer.input_mean is None:
            _statistics(layer.adapt_mean, layer.adapt_variance, rng)
            layer.finalize_state()
        elif isinstance(layer, layers.Dense | layers.Conv2D):
            scale, shape = draw(_SCALE), layer.kernel.shape
            kernel = rng.normal(size=shape) * scale / np.sqrt(np.prod(shape[:-1]))
            if rng.random() < 0.25:
                kernel *= rng.random(shape) < 0.5
            layer.kernel.assign(kernel)
            if layer.use_bias:
                layer.bias.assign(rng.normal(size=layer.bias.shape) * scale * rng.choice([0.3, 3]))


_SCALE = st.sampled_from(SCALES)


def _statistics(mean, variance, rng) -> None:
    mean.assign(rng.normal(size=mean.shape) * 0.3)
    variance.assign(rng.uniform(0.05, 2.0, size=variance.shape))
