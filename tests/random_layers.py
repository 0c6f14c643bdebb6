"""Layers that random models are drawn of beside the usual ones: bent, moved, joined, pooled."""

import keras
import numpy as np
from hypothesis import strategies as st
from keras import layers

PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))
STRIDES = st.tuples(st.integers(1, 2), st.integers(1, 2))
SIDES = st.tuples(st.integers(0, 2), st.integers(0, 1))
BENT = ("relu6", "leaky_relu", "hard_tanh", "hard_sigmoid", "sparse_sigmoid")
LARGEST = 6


class Others:
    """Methods `x -> x`, drawn by `self.draw` and `self.one_of`."""

    def bent(self, x):
        """What is made of several ReLUs."""
        axes = list(range(1, len(x.shape) - 1)) if self.draw(st.booleans()) else None
        return self.one_of(
            lambda: layers.LeakyReLU(self.one_of(0.0, 0.2, 1.0, 1.7)),
            lambda: layers.PReLU(shared_axes=axes),
            lambda: layers.ReLU(
                max_value=self.one_of(None, 0.0, 0.6), negative_slope=self.one_of(0.0, 0.3)
            ),
            lambda: layers.Activation(self.one_of(*BENT)),
        )()(x)

    def _placed(self, size, x):
        """`same` or, where the window fits, `valid`; and which axis holds the channels."""
        fits = all(k <= n for k, n in zip(size, x.shape[1:3], strict=True))
        return {"padding": self.one_of("same", "valid") if fits else "same"}

    def largest(self, x):
        """Maxima and means, of windows and of images."""
        size = self.draw(PAIRS)
        if self.draw(st.integers(0, 3)) == 0:
            kinds = (layers.GlobalMaxPooling2D, layers.GlobalAveragePooling2D)
            return self.one_of(*kinds)(
                keepdims=self.draw(st.booleans()), data_format=self.layout()
            )(x)
        return layers.MaxPooling2D(size, self.draw(STRIDES), **self._placed(size, x))(x)

    def layout(self):
        return self.one_of("channels_last", "channels_last", "channels_first")

    def otherwise_convolved(self, x):
        """In groups, dilated, depthwise, separable, transposed."""
        size, filters = self.draw(PAIRS), self.draw(st.integers(1, 2))
        kind = self.one_of("conv", "depth", "separable", "transposed", "first")
        options = {"use_bias": self.draw(st.booleans()), "activation": self.fused()}
        # Strides of windows that leave one column may be wrong in Keras's own float32.
        if kind == "conv":
            groups = x.shape[3] if self.draw(st.booleans()) else 1
            dilation = self.draw(STRIDES)
            layer = layers.Conv2D(
                filters * groups, size, 1, "same", dilation_rate=dilation, groups=groups, **options
            )
        elif kind == "depth":
            layer = layers.DepthwiseConv2D(size, 1, "same", filters, **options)
        elif kind == "separable":
            layer = layers.SeparableConv2D(filters, size, 1, "same", **options)
        elif kind == "transposed":
            strides = self.draw(STRIDES) if max(x.shape[1:3]) < 4 else (1, 1)
            padding = self.one_of("same", "valid")
            layer = layers.Conv2DTranspose(filters, size, strides, padding, **options)
        else:
            layer = layers.Conv2D(filters, size, 1, "same", data_format="channels_first", **options)
        return layer(x)

    def moved(self, x):
        """Cropped, enlarged, turned: nothing is computed."""
        height, width = x.shape[1:3]
        choices = [lambda: layers.Permute(self.one_of((2, 1, 3), (3, 1, 2), (1, 3, 2)))]
        if min(height, width) > 1:
            sides = ((1, 0), (0, 1)) if self.draw(st.booleans()) else ((0, height - 1), (1, 0))
            choices.append(lambda: layers.Cropping2D(sides))
        if max(height, width) < 4:
            choices.append(lambda: layers.UpSampling2D(self.draw(STRIDES)))
        return self.one_of(*choices)()(x)

    def joined(self, x):
        """Two branches, side by side or compared; or one, times a constant."""
        kind = self.one_of("side", "side", "pair", "pair", "constant")
        if kind == "constant":
            rng = np.random.default_rng(self.draw(st.integers(0, 9)))
            factors = rng.normal(size=(1, *x.shape[1:])).astype(np.float32)
            return layers.Multiply()([x, factors])
        first, second = self._kept(x), self._kept(x) if self.draw(st.booleans()) else x
        if kind == "side":
            if np.prod(x.shape[1:]) > 40:
                return x
            axis = self.draw(st.integers(1, len(x.shape) - 1))
            return layers.Concatenate(axis=axis)([first, second])
        pairs = (layers.Maximum, layers.Minimum, layers.Subtract, layers.Average)
        return self.one_of(*pairs)()([first, second])

    def rows(self, x):
        """A layer of one dimension, of an image or a vector as rows."""
        flat = len(x.shape) == 2
        x = layers.Reshape((x.shape[1], 1) if flat else (-1, x.shape[-1]))(x)
        size = self.draw(st.integers(1, min(3, x.shape[1])))
        strides, options = self.draw(st.integers(1, 2)), {"activation": self.fused()}
        if x.shape[2] == 1:
            strides = 1
        layer = self.one_of(
            lambda: layers.Conv1D(2, size, 1, self.one_of("same", "causal"), **options),
            lambda: layers.Conv1D(2, size, strides, "same", **options),
            lambda: layers.DepthwiseConv1D(size, 1, "same", **options),
            lambda: layers.SeparableConv1D(2, size, 1, "same", **options),
            lambda: layers.Conv1DTranspose(1, size, 1, "same", **options),
            lambda: layers.MaxPooling1D(size, strides, self.one_of("same", "valid")),
            lambda: layers.AveragePooling1D(size, strides, self.one_of("same", "valid")),
            lambda: layers.ZeroPadding1D(self.draw(SIDES)),
            lambda: layers.Cropping1D((0, x.shape[1] - 1)),
            lambda: layers.UpSampling1D(1 if x.shape[1] > LARGEST else 2),
        )()
        x = layer(x)
        return layers.Flatten()(x) if flat else layers.Reshape((-1, 1, x.shape[2]))(x)


def randomise(layer: keras.layers.Layer, rng: np.random.Generator, scale: float) -> None:
    """Fills the weights of a layer that is none of the usual ones."""
    for weight in layer.trainable_weights:
        size = max(1, int(np.prod(weight.shape[:-1])))
        weight.assign(rng.normal(size=weight.shape) * scale / np.sqrt(size))
