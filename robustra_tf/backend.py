"""The one demand on Keras: that TensorFlow computes for it."""

from __future__ import annotations

import os


class BackendError(RuntimeError):
    """Keras runs on another backend than TensorFlow."""


def require_tensorflow_backend() -> None:
    """Make sure that Keras runs on TensorFlow, whose variables the graphs share.

    Raises:
      BackendError: another backend, with what to do about it.
    """
    try:
        import keras
    except ImportError as error:
        # Keras imports its backend first of all: one that is not installed ends here.
        backend = os.environ.get("KERAS_BACKEND", "the one in keras.json")
        raise BackendError(f"{_WANTED}, got {backend} ({error}); {_ADVICE}") from error
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise BackendError(f"{_WANTED}, got {backend}; {_ADVICE}")


_WANTED = "keras must run on the backend tensorflow"
_ADVICE = (
    "set the environment variable KERAS_BACKEND=tensorflow, or take the other backend out of "
    "keras.json"
)
