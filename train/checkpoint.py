"""Checkpoints of everything that training changes, so that a run can go on where it was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from train.mutual import Network

KEPT = 2


class Checkpoints:
    """The checkpoints of a run: both networks, both optimizers, the passes done and the seed.

    What else a run draws on is a function of these: the order of the data and its augmentation of
    the seed and the pass, radius and learning rate of the epoch.
    """

    def __init__(self, directory: Path, networks: Sequence[Network], seed: int):
        """Prepares to save and restore the given networks.

        Args:
          directory: of the checkpoints; made by the first `save`.
          networks: built models with built optimizers.
          seed: of the run; a checkpoint of another seed is refused.
        """
        self._passes = tf.Variable(0, dtype=tf.int64, trainable=False, name="passes")
        self._seed = tf.Variable(seed, dtype=tf.int64, trainable=False, name="seed")
        parts = {network.name: _part(network) for network in networks}
        self._checkpoint = tf.train.Checkpoint(passes=self._passes, seed=self._seed, **parts)
        self._manager = tf.train.CheckpointManager(self._checkpoint, str(directory), KEPT)

    def save(self, passes: int) -> str:
        """Saves everything after `passes` passes; returns the checkpoint's path."""
        self._passes.assign(passes)
        return self._manager.save(checkpoint_number=passes)

    def restore(self) -> int:
        """Restores the newest checkpoint; returns the passes done, 0 where there is none.

        Raises:
          ValueError: the checkpoint is of another run: it holds other variables or another seed.
        """
        newest = self._manager.latest_checkpoint
        if newest is None:
            return 0
        seed = int(self._seed.numpy())
        try:
            status = self._checkpoint.restore(newest)
            status.assert_existing_objects_matched().assert_consumed()
        except (AssertionError, ValueError) as error:
            problem = str(error).splitlines()[0]
            raise ValueError(f"{newest}: not a checkpoint of these networks: {problem}") from error
        found = int(self._seed.numpy())
        if found != seed:
            raise ValueError(f"{newest}: expected a checkpoint of seed {seed}, got seed {found}")
        return int(self._passes.numpy())


def _part(network: Network) -> tf.train.Checkpoint:
    # The variables themselves, in order: what Keras names them may change between versions.
    return tf.train.Checkpoint(
        model=[variable.value for variable in network.model.variables],
        optimizer=[variable.value for variable in network.optimizer.variables],
    )
