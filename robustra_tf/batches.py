"""The pipeline that feeds images to training; any epoch of it can be made again exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from robustra_tf.data import Dataset

if TYPE_CHECKING:
    import tensorflow as tf


class TrainingBatches:
    """Shuffled batches of a dataset, any epoch of which can be made again exactly.

    The images are kept decoded; each epoch gathers them in an order drawn from (seed, epoch) and,
    after that cache, augments them by draws from (seed, epoch, step), with a seed of their own. The
    shapes are static: an epoch has `steps` full batches and leaves out the examples that do not
    fill another one (others in each epoch). A dataset smaller than one batch is one batch of its
    own size.

    Example:
      >>> digits = rt.data.load("digits", "train", limit=100)
      >>> batches = rt.batches.TrainingBatches(digits, batch_size=30, seed=0)
      >>> [images.shape[0] for images, labels in batches.epoch(0)]
      [30, 30, 30]
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int,
        shift: int = 0,
        mirror: bool = False,
        augmentation_seed: int | None = None,
    ):
        """Keeps the images as a tensor.

        Args:
          dataset: images `[n, h, w, c]` in [0, 1] and labels `[n]`.
          batch_size: examples a step, at least 1.
          seed: of the order, at least 0.
          shift: pixels that an image moves by at most, along each axis, as `augment` does it.
          mirror: whether every other image is turned left to right.
          augmentation_seed: of the augmentation; None for `seed`.

        Raises:
          ValueError: an empty dataset or a batch size below 1.
        """
        import tensorflow as tf

        count = len(dataset.labels)
        if count < 1:
            raise ValueError("dataset: expected at least one example, got none")
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        self.batch_size = min(batch_size, count)
        self.steps = count // self.batch_size
        self._count, self._seed, self._augmentation = count, seed, (shift, mirror)
        self._augmentation_seed = seed if augmentation_seed is None else augmentation_seed
        with tf.device("CPU"):
            self._images = tf.constant(dataset.images, tf.float32)
            self._labels = tf.constant(dataset.labels, tf.int32)

    def order(self, epoch: int) -> np.ndarray:
        """The indices of the epoch's examples, int64 `[steps, batch_size]`."""
        shuffled = np.random.default_rng([self._seed, epoch]).permutation(self._count)
        return shuffled[: self.steps * self.batch_size].reshape(self.steps, self.batch_size)

    def epoch(self, epoch: int, first_step: int = 0) -> tf.data.Dataset:
        """The batches of an epoch from `first_step` on.

        Args:
          epoch: counts passes through the data, from 0.
          first_step: where to begin, so that an interrupted epoch can go on.

        Returns:
          A `tf.data.Dataset` of (images float32 `[batch_size, h, w, c]` in [0, 1], labels int32
          `[batch_size]`).
        """
        import tensorflow as tf

        order = self.order(epoch)[first_step:]
        words = np.random.SeedSequence([self._augmentation_seed, epoch]).generate_state(2)
        seed = tf.constant(words, tf.int64)

        def batch(step, indices):
            images, labels = tf.gather(self._images, indices), tf.gather(self._labels, indices)
            if any(self._augmentation):
                drawn = tf.random.experimental.stateless_fold_in(seed, step)
                images = augment(images, drawn, *self._augmentation)
            return images, labels

        steps = np.arange(first_step, self.steps)
        batches = tf.data.Dataset.from_tensor_slices((steps, order))
        # The order of the batches is fixed whatever the number of threads that prepare them.
        batches = batches.map(batch, num_parallel_calls=2, deterministic=True)
        return batches.prefetch(2)


def augment(images: tf.Tensor, seed: tf.Tensor, shift: int, mirror: bool) -> tf.Tensor:
    """Moves each image at random, by whole pixels, and mirrors it with probability 1/2.

    Args:
      images: `[n, h, w, c]`; values in [0, 1] stay there, what moves in is black.
      seed: integers `[2]`; equal seeds give equal images.
      shift: pixels at most, along each axis; all shifts are equally likely.
      mirror: whether images may be mirrored.

    Returns:
      `[n, h, w, c]`.

    Example:
      >>> black = rt.batches.augment(tf.zeros((1, 8, 8, 1)), (0, 1), shift=2, mirror=True)
      >>> float(tf.reduce_max(black))
      0.0
    """
    import tensorflow as tf

    count = tf.shape(images)[0]
    height, width = images.shape[1:3]
    seeds = tf.random.split(seed, 2)
    if mirror:
        turned = tf.random.stateless_uniform([count, 1, 1, 1], seeds[0]) < 0.5
        images = tf.where(turned, tf.reverse(images, axis=[2]), images)

    corners = tf.random.stateless_uniform([count, 2], seeds[1], 0, 2 * shift + 1, tf.int32)
    padded = tf.pad(images, [[0, 0], [shift, shift], [shift, shift], [0, 0]])
    rows = corners[:, :1] + tf.range(height)
    columns = corners[:, 1:] + tf.range(width)
    padded = tf.gather(padded, rows, axis=1, batch_dims=1)
    return tf.gather(padded, columns, axis=2, batch_dims=1)
