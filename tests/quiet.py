"""Keras and TensorFlow, imported without their greeting.

TensorFlow writes lines to the process's standard error when it is imported, whatever its log level
is. In a worker of pytest-xdist pytest holds them back until the worker ends, so that they would
come after the summary.
"""

import os

with open(os.devnull, "w") as nowhere:
    kept = os.dup(2)
    os.dup2(nowhere.fileno(), 2)
    try:
        import keras
        import tensorflow as tf
        from tensorflow.python.eager import context
    finally:
        os.dup2(kept, 2)
        os.close(kept)

__all__ = ["context", "keras", "tf"]
