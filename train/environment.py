"""What TensorFlow reads when it is imported, and how equal runs give equal bits."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

from absl import logging


def prepare(deterministic: bool, verbose: bool = False) -> None:
    """Sets the environment for a run; to be called before TensorFlow's import.

    Args:
      deterministic: for a run that `make_deterministic` is called for.
      verbose: leaves absl's level as the user has set it.
    """
    if not verbose:
        logging.set_verbosity(logging.WARNING)  # TensorFlow tells of every file it saves
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if deterministic:
        # oneDNN's kernels add in an order that may differ from run to run in the last bit.
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"


def make_deterministic() -> None:
    """Has every operation give the same bits whenever it is given the same."""
    import tensorflow as tf
    from tensorflow.python.ops import gen_math_ops

    tf.config.experimental.enable_op_determinism()
    # AddN begins with whichever of its inputs happens to be free for reuse: the last bit of a sum
    # of three depends on timing. The arithmetic optimizer turns chains of additions into such sums,
    # and the gradient of what is used three times is one: nothing public says how it is added.
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})
    gen_math_ops.add_n = in_pairs(gen_math_ops.add_n)


def in_pairs(add_n: Callable) -> Callable:
    """The sum of tensors by sums of two, whose order does not matter: (a + b) + c, and so on."""

    def summed(inputs, name=None):
        inputs = list(inputs)
        if len(inputs) < 3:
            return add_n(inputs, name)
        return functools.reduce(lambda total, value: add_n([total, value]), inputs)

    return summed
