"""Layers that random models are drawn of beside the usual ones: bent, moved, joined, pooled.

Each can be asked for by its name, `Others.of`.
"""

import functools
from collections.abc import Callable

import keras
import numpy as np
from hypothesis import strategies as st
from keras import layers

from tests.image_layers import channels_first_runs

PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))
STRIDES = st.tuples(st.integers(1, 2), st.integers(1, 2))
SIDES = st.tuples(st.integers(0, 2), st.integers(0, 1))
BENT = ("relu6", "leaky_relu", "hard_tanh", "hard_sigmoid", "sparse_sigmoid")
LARGEST = 6

#: The names of all layers that are drawn here, by the method that draws them.
NAMES = {
    "bent": ("LeakyReLU", "PReLU", "ReLU", "Activation"),
    "largest": ("MaxPooling2D", "AveragePooling2D", "GlobalMaxPooling2D", "GlobalAveragePooling2D"),
    "otherwise_convolved": (
        *("Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Conv2DTranspose", "channels first"),
    ),
    "moved": ("Permute", "Cropping2D", "UpSampling2D", "ZeroPadding2D"),
    "joined": ("Concatenate", "Maximum", "Minimum", "Subtract", "Average", "Multiply"),
    "rows": (
        *("Conv1D", "DepthwiseConv1D", "SeparableConv1D", "Conv1DTranspose", "MaxPooling1D"),
        *("AveragePooling1D", "GlobalMaxPooling1D", "GlobalAveragePooling1D", "ZeroPadding1D"),
        *("Cropping1D", "UpSampling1D"),
    ),
    "repeated": ("RepeatVector",),
}
_OF_IMAGES = ("largest", "otherwise_convolved", "moved")
#: What `of` may be asked for.
EVERY = tuple(name for names in NAMES.values() for name in names)


class Others:
    """Methods `x -> x`, drawn by `self.draw` and `self.one_of`; of one layer where it is named."""

    def of(self, name: str, x):
        """`x` after the layer of that name, as an image before it where it takes images."""
        (kind,) = [kind for kind, names in NAMES.items() if name in names]
        if kind in _OF_IMAGES and len(x.shape) == 2:
            x = layers.Reshape((2, 2, 1))(layers.Dense(4)(x))
        return getattr(self, kind)(x, name)

    def _chosen(self, choices: dict[str, Callable], name: str | None):
        """One of the choices, called: that of the name, if it is there."""
        return (choices[name] if name in choices else self.one_of(*choices.values()))()

    def bent(self, x, name=None):
        """What is made of several ReLUs."""
        axes = list(range(1, len(x.shape) - 1)) if self.draw(st.booleans()) else None
        choices = {
            "LeakyReLU": lambda: layers.LeakyReLU(self.one_of(0.0, 0.2, 1.0, 1.7)),
            "PReLU": lambda: layers.PReLU(shared_axes=axes),
            "ReLU": lambda: layers.ReLU(
                max_value=self.one_of(None, 0.0, 0.6), negative_slope=self.one_of(0.0, 0.3)
            ),
            "Activation": lambda: layers.Activation(self.one_of(*BENT)),
        }
        return self._chosen(choices, name)(x)

    def _placed(self, size, x):
        """`same` or, where the window fits, `valid`."""
        fits = all(k <= n for k, n in zip(size, x.shape[1:3], strict=True))
        return {"padding": self.one_of("same", "valid") if fits else "same"}

    def largest(self, x, name=None):
        """Maxima and means, of windows and of images."""
        size = self.draw(PAIRS)
        whole = self.draw(st.integers(0, 3)) == 0 if name is None else name.startswith("Global")

        def of_image(kind):
            return kind(keepdims=self.draw(st.booleans()), data_format=self.layout())

        def of_windows(kind):
            return kind(size, self.draw(STRIDES), **self._placed(size, x))

        kinds = (layers.GlobalMaxPooling2D, layers.GlobalAveragePooling2D)
        if not whole:
            kinds = (layers.MaxPooling2D, layers.AveragePooling2D)
        made = of_image if whole else of_windows
        choices = {kind.__name__: functools.partial(made, kind) for kind in kinds}
        return self._chosen(choices, name)(x)

    def layout(self):
        return self.one_of("channels_last", "channels_last", "channels_first")

    def otherwise_convolved(self, x, name=None):
        """In groups, dilated, depthwise, separable, transposed."""
        size, filters = self.draw(PAIRS), self.draw(st.integers(1, 2))
        options = {"use_bias": self.draw(st.booleans()), "activation": self.fused()}

        # Strides of windows that leave one column may be wrong in Keras's own float32.
        def grouped():
            groups = x.shape[3] if self.draw(st.booleans()) else 1
            dilation = self.draw(STRIDES)
            return layers.Conv2D(
                filters * groups, size, 1, "same", dilation_rate=dilation, groups=groups, **options
            )

        def transposed():
            strides = self.draw(STRIDES) if max(x.shape[1:3]) < 4 else (1, 1)
            padding = self.one_of("same", "valid")
            return layers.Conv2DTranspose(filters, size, strides, padding, **options)

        def first():
            if not channels_first_runs():
                return layers.Conv2D(filters, size, 1, "same", **options)
            # Keras adds a bias along the last axis where that is as long: refused.
            options["use_bias"] &= filters != x.shape[3]
            return layers.Conv2D(filters, size, 1, "same", data_format="channels_first", **options)

        choices = {
            "Conv2D": grouped,
            "DepthwiseConv2D": lambda: layers.DepthwiseConv2D(size, 1, "same", filters, **options),
            "SeparableConv2D": lambda: layers.SeparableConv2D(filters, size, 1, "same", **options),
            "Conv2DTranspose": transposed,
            "channels first": first,
        }
        return self._chosen(choices, name)(x)

    def moved(self, x, name=None):
        """Cropped, enlarged, padded, turned: nothing is computed."""
        height, width = x.shape[1:3]
        choices = {
            "Permute": lambda: layers.Permute(self.one_of((2, 1, 3), (3, 1, 2), (1, 3, 2))),
            "ZeroPadding2D": lambda: layers.ZeroPadding2D(((0, 1), (1, 0))),
        }
        if min(height, width) > 1:
            sides = ((1, 0), (0, 1)) if self.draw(st.booleans()) else ((0, height - 1), (1, 0))
            choices["Cropping2D"] = lambda: layers.Cropping2D(sides)
        if max(height, width) < 4:
            choices["UpSampling2D"] = lambda: layers.UpSampling2D(self.draw(STRIDES))
        if max(height, width) > 5:
            del choices["ZeroPadding2D"]
        return self._chosen(choices, name)(x)

    def joined(self, x, name=None):
        """Two branches, side by side or compared; or one, times a constant."""
        if name is None:
            name = self.one_of("Concatenate", "Concatenate", "pair", "pair", "Multiply")
        if name == "Multiply":
            rng = np.random.default_rng(self.draw(st.integers(0, 9)))
            factors = rng.normal(size=(1, *x.shape[1:])).astype(np.float32)
            return layers.Multiply()([x, factors])
        first, second = self._kept(x), self._kept(x) if self.draw(st.booleans()) else x
        if name == "Concatenate":
            if np.prod(x.shape[1:]) > 40:
                return x
            axis = self.draw(st.integers(1, len(x.shape) - 1))
            return layers.Concatenate(axis=axis)([first, second])
        pairs = (layers.Maximum, layers.Minimum, layers.Subtract, layers.Average)
        return self._chosen({pair.__name__: pair for pair in pairs}, name)([first, second])

    def rows(self, x, name=None):
        """A layer of one dimension, of an image or a vector as rows."""
        flat = len(x.shape) == 2
        x = layers.Reshape((x.shape[1], 1) if flat else (-1, x.shape[-1]))(x)
        size = self.draw(st.integers(1, min(3, x.shape[1])))
        strides, options = self.draw(st.integers(1, 2)), {"activation": self.fused()}
        if x.shape[2] == 1:
            strides = 1

        def convolved():
            if self.draw(st.booleans()):
                return layers.Conv1D(2, size, 1, self.one_of("same", "causal"), **options)
            return layers.Conv1D(2, size, strides, "same", **options)

        def placed(kind):
            return kind(size, strides, self.one_of("same", "valid"))

        choices = {
            "Conv1D": convolved,
            "DepthwiseConv1D": lambda: layers.DepthwiseConv1D(size, 1, "same", **options),
            "SeparableConv1D": lambda: layers.SeparableConv1D(2, size, 1, "same", **options),
            "Conv1DTranspose": lambda: layers.Conv1DTranspose(1, size, 1, "same", **options),
            "MaxPooling1D": lambda: placed(layers.MaxPooling1D),
            "AveragePooling1D": lambda: placed(layers.AveragePooling1D),
            "GlobalMaxPooling1D": lambda: layers.GlobalMaxPooling1D(keepdims=True),
            "GlobalAveragePooling1D": lambda: layers.GlobalAveragePooling1D(keepdims=True),
            "ZeroPadding1D": lambda: layers.ZeroPadding1D(self.draw(SIDES)),
            "Cropping1D": lambda: layers.Cropping1D((0, x.shape[1] - 1)),
            "UpSampling1D": lambda: layers.UpSampling1D(1 if x.shape[1] > LARGEST else 2),
        }
        x = self._chosen(choices, name)(x)
        return layers.Flatten()(x) if flat else layers.Reshape((-1, 1, x.shape[2]))(x)

    def repeated(self, x, name=None):
        """A vector, twice."""
        if len(x.shape) > 2:
            x = layers.Flatten()(x)
        return layers.Flatten()(layers.RepeatVector(2)(x)) if x.shape[1] <= 2 * LARGEST else x


def randomise(layer: keras.layers.Layer, rng: np.random.Generator, scale: float) -> None:
    """Fills the weights of a layer that is none of the usual ones."""
    if isinstance(layer, keras.layers.PReLU):
        # Slopes beyond 64 are refused.
        scale = min(scale, 10.0)
    for weight in layer.trainable_weights:
        size = max(1, int(np.prod(weight.shape[:-1])))
        weight.assign(rng.normal(size=weight.shape) * scale / np.sqrt(size))
