"""What TensorFlow reads when it is imported, and how equal runs give equal bits."""

from __future__ import annotations

import os

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

    tf.config.experimental.enable_op_determinism()
    # The arithmetic optimizer turns chains of additions into AddN, whose order of summation depends
    # on which of its inputs happens to be free for reuse: the last bit then depends on timing.
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})
