"""The one demand on Keras: that TensorFlow computes for it."""

from __future__ import annotations

import keras


def require_tensorflow_backend() -> None:
    """Make sure that Keras runs on TensorFlow, whose variables the graphs share.

    Raises:
      RuntimeError: another backend, with what to do about it.
    """
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise RuntimeError(
            f"keras must run on the backend 'tensorflow', got {backend!r}: set the environment "
            "variable KERAS_BACKEND=tensorflow, or remove the other backend from keras.json"
        )
