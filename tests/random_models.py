"""Random Keras models of every supported layer, drawn by hypothesis.

A drawn model is small: an image of at most 5x5 pixels or a vector, up to five layers or blocks of
branches, logits. Skips start behind ReLUs too, branches are of unequal depth, layers and models
stand in several places, ReLUs behind ReLUs and at the end. Its weights are normal numbers at a
scale drawn for each layer, some of them zero; some neurons are dead or always active on purpose,
some layers constant.
"""

import keras
import numpy as np
from hypothesis import strategies as st
from keras import layers

from tests import random_layers

#: What multiplies weights that keep pre-activations around one. Ordinary scales are drawn most.
SCALES = (0.0, 1e-30, 1e-6, 0.1, 0.5, 1.0, 1.0, 1.0, 1.5, 1.5, 3.0, 30.0, 1e4)

PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))
STRIDES = st.tuples(st.integers(1, 2), st.integers(1, 2))
PADDING = st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2)
SEEDS = st.integers(0, 2**32 - 1)


SHAPES = ((4,), (7,), (4, 4, 1), (5, 4, 2), (3, 5, 3), (5, 5, 1))


def model(draw, shapes=SHAPES, depth=5, named=None) -> keras.Model:
    """A built model, pixels to at least two logits.

    Args:
      draw: `st.data().draw` of a test: decides layers, scales and seeds. (This is no strategy of
        its own: Keras draws seeds from Python's random numbers, which strategies must not.)
      shapes: of the image, one of them.
      depth: at most so many layers or blocks before the logits.
      named: a layer that is one of them, of `random_layers.EVERY`.
    """
    drawn = _Drawn(draw)
    inputs = keras.Input(draw(st.sampled_from(shapes)))
    x = inputs
    count = draw(st.integers(0 if named is None else 1, depth))
    place = draw(st.integers(0, count - 1)) if named is not None else None
    for k in range(count):
        x = drawn.of(named, x) if k == place else drawn.grown(x)
    if len(x.shape) > 2:
        x = layers.Flatten()(x)
    x = drawn.dense(draw(st.integers(2, 4)), draw(st.sampled_from([None, None, "relu"])))(x)
    ending = draw(st.sampled_from(["plain", "plain", "plain", "skip", "relu on relu"]))
    if ending == "skip":
        x = drawn.skipped(x)
    elif ending == "relu on relu":
        x = layers.ReLU()(layers.ReLU()(x))
    found = keras.Model(inputs, x)
    calls = [call for together in found._nodes_by_depth.values() for call in together]
    chain = len(calls) == len(found.layers) and all(len(c.input_tensors) < 2 for c in calls)
    if chain and not any(isinstance(each, keras.Model | layers.Multiply) for each in found.layers):
        found = draw(st.sampled_from([found, keras.Sequential(found.layers)]))
    randomise(found, draw)
    return found


def name(rng: np.random.Generator) -> str | None:
    """For half of all models a layer that they have to have, any of the less usual ones."""
    return str(rng.choice(random_layers.EVERY)) if rng.random() < 0.5 else None


class _Drawn(random_layers.Others):
    """Layers drawn one after another."""

    def __init__(self, draw):
        self.draw = draw

    def one_of(self, *choices):
        return self.draw(st.sampled_from(choices))

    def grown(self, x):
        """`x` after one more layer or block."""
        kinds = [self.activation, self.scaled, self.branched, self.nested, self.reshaped]
        kinds += [self.skipped, self.bent, self.joined, self.rows, self.repeated]
        if len(x.shape) == 4:
            kinds += [self.convolved] * 3 + [self.pooled, self.padded, self.flat]
            kinds += [self.otherwise_convolved] * 2 + [self.largest, self.largest, self.moved]
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

    def skipped(self, x):
        """With `h = relu(x)`, a skip from it: `f(h) + h`, `f(f(h)) + f(h) + h` or `h + h`."""
        h = layers.ReLU()(x)
        if self.draw(st.booleans()):
            h = layers.ReLU()(self._kept(h))
        kind = self.one_of("block", "block", "repeated", "doubled")
        if kind == "doubled":
            branches = [h, h]
        elif kind == "repeated":
            block = self._block(h.shape[1:])
            branches = [block(block(h)), block(h), h]
        else:
            branches = [self._block(h.shape[1:])(h), h]
        total = layers.Add()(branches)
        return layers.ReLU()(total) if self.draw(st.booleans()) else total

    def _block(self, shape):
        """A model of one or two layers that keeps the shape."""
        inputs = keras.Input(shape)
        outputs = self._kept(inputs)
        if self.draw(st.booleans()):
            outputs = self._kept(outputs)
        return keras.Model(inputs, outputs)

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
    """Fills the weights, each layer at a scale of its own.

    In one of four some are zero; in one of four some neurons are dead or always active over images
    of ordinary size; one of eight is constant.
    """
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
        elif type(layer) in (layers.Dense, layers.Conv2D):
            scale, shape = draw(_SCALE), layer.kernel.shape
            kernel = rng.normal(size=shape) * scale / np.sqrt(np.prod(shape[:-1]))
            if rng.random() < 0.25:
                kernel *= rng.random(shape) < 0.5
            if rng.random() < 0.125:
                kernel *= 0.0
            layer.kernel.assign(kernel)
            if layer.use_bias:
                bias = rng.normal(size=layer.bias.shape) * scale * rng.choice([0.3, 3])
                if rng.random() < 0.25:
                    bias += rng.choice([-10.0, 0.0, 10.0], size=bias.shape) * scale
                layer.bias.assign(bias)
        elif not isinstance(layer, layers.Normalization):
            random_layers.randomise(layer, rng, draw(_SCALE))


_SCALE = st.sampled_from(SCALES)


def _statistics(mean, variance, rng) -> None:
    mean.assign(rng.normal(size=mean.shape) * 0.3)
    variance.assign(rng.uniform(0.05, 2.0, size=variance.shape))
