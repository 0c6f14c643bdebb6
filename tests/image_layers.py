"""Layers of images and of rows, by Keras's names, with the options that tests try of each."""

import functools

import keras
import numpy as np
import tensorflow as tf

FIRST = {"data_format": "channels_first"}

MORE = {
    "Conv2D": [
        {"filters": 4, "kernel_size": 3, "groups": 2, "dilation_rate": 2, "padding": "same"},
        {"filters": 3, "kernel_size": (1, 2), "strides": 2} | FIRST,
        {"filters": 3, "kernel_size": 2, "activation": "leaky_relu"},
    ],
    "DepthwiseConv2D": [
        {"kernel_size": 3, "depth_multiplier": 2, "strides": 2, "padding": "same"},
        {"kernel_size": 2, "dilation_rate": (2, 3), "use_bias": False},
        {"kernel_size": (2, 1)} | FIRST,
    ],
    "SeparableConv2D": [
        {"filters": 3, "kernel_size": (2, 3), "strides": 2, "depth_multiplier": 2},
        {"filters": 2, "kernel_size": 3, "padding": "same", "activation": "relu6"},
    ],
    "Conv2DTranspose": [
        {"filters": 3, "kernel_size": 3, "strides": 2},
        {"filters": 2, "kernel_size": 2, "strides": 3, "padding": "same"},
        {"filters": 2, "kernel_size": (5, 2), "strides": (2, 1), "padding": "same"},
        {"filters": 2, "kernel_size": 3, "dilation_rate": 2, "use_bias": False},
        {"filters": 2, "kernel_size": 3, "strides": 2, "output_padding": 1},
        {"filters": 2, "kernel_size": 3, "strides": 2} | FIRST,
    ],
    "MaxPooling2D": [
        {},
        {"pool_size": 3, "strides": 2},
        {"pool_size": (3, 2), "strides": (2, 3), "padding": "same"},
        {"pool_size": (1, 5), "strides": (2, 1), "padding": "same"},
        {"pool_size": 2} | FIRST,
    ],
    "AveragePooling2D": [{"pool_size": 2, "strides": 2, "padding": "same"} | FIRST],
    "GlobalMaxPooling2D": [{}, {"keepdims": True}, FIRST],
    "GlobalAveragePooling2D": [{}, {"keepdims": True}, FIRST],
    "ZeroPadding2D": [{"padding": ((1, 0), (2, 3))} | FIRST],
    "Cropping2D": [{"cropping": ((1, 2), (0, 3))}, {"cropping": ((1, 2), (1, 0))} | FIRST],
    "UpSampling2D": [{"size": (2, 3)}, {"size": 2} | FIRST],
    "Flatten": [FIRST],
    "BatchNormalization": [{"axis": 1}, {"axis": 2}],
    "Permute": [{"dims": (3, 1, 2)}],
    "LeakyReLU": [{}, {"negative_slope": 1.5}],
    "PReLU": [{}, {"shared_axes": [1, 2]}],
    "ReLU": [
        {"max_value": 1.5},
        {"negative_slope": 0.2},
        {"max_value": 0.7, "negative_slope": 0.2},
    ],
}
ROWS = {
    "Conv1D": [
        {"filters": 3, "kernel_size": 3},
        {"filters": 3, "kernel_size": 3, "padding": "causal", "dilation_rate": 2},
        {"filters": 4, "kernel_size": 3, "strides": 2, "padding": "same", "groups": 2},
        {"filters": 3, "kernel_size": 2} | FIRST,
    ],
    "DepthwiseConv1D": [{"kernel_size": 3}],
    "SeparableConv1D": [{"filters": 3, "kernel_size": 3}],
    "Conv1DTranspose": [{"filters": 2, "kernel_size": 3, "strides": 2, "padding": "same"}],
    "MaxPooling1D": [{"pool_size": 3, "strides": 2}, {"pool_size": 4, "padding": "same"}],
    "AveragePooling1D": [{"pool_size": 5, "strides": 2, "padding": "same"}],
    "GlobalMaxPooling1D": [{}],
    "GlobalAveragePooling1D": [{}],
    "ZeroPadding1D": [{"padding": (1, 2)}],
    "Cropping1D": [{"cropping": (1, 2)}],
    "UpSampling1D": [{"size": 3}],
    "Permute": [{"dims": (2, 1)}],
}


@functools.cache
def channels_first_runs() -> bool:
    """Whether Keras convolves with channels first here: without a library of Intel's it does not.

    TensorFlow uses that library by itself on processors with AVX-512.
    """
    try:
        keras.layers.Conv2D(1, 1, **FIRST)(np.zeros((1, 1, 2, 2), np.float32))
    except tf.errors.OpError:
        return False
    return True
