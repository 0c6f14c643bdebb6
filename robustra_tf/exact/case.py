"""One image to decide, with what is asked of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from robustra_tf.attacks.replay import replayed, settle
from robustra_tf.exact.goal import Goal
from robustra_tf.exact.probe import Probe, probed
from robustra_tf.exact.proving import Prover
from robustra_tf.exact.task import Inputs, Task
from robustra_tf.exact.verdict import Status, Verdict
from robustra_tf.property import Query


class Case(NamedTuple):
    """One image to decide.

    Attributes:
      task: what is the same for every image.
      query: what is asked, of one example, without rounding.
      goal: what must not be reached.
      deadline: of `time.monotonic`.
      proof: what keeps a proof of the verdict, where one is wanted.
    """

    task: Task
    query: Query
    goal: Goal
    deadline: float
    proof: Prover | None = None

    @property
    def inputs(self) -> Inputs:
        """The set about the image."""
        return Inputs(*self.query[1:4])

    @property
    def image(self) -> np.ndarray:
        """The image [*input_shape]."""
        return self.query.x[0]

    @property
    def flat(self) -> np.ndarray:
        """The image, float64 [n]."""
        return self.image.astype(np.float64).ravel()

    def probed(self, count: int) -> Probe:
        """The network's values at the image and at `count` points about it."""
        return probed(self.task.network, self.inputs, self.image, count)

    def replayed(self, points: Iterable[np.ndarray]) -> Verdict | None:
        """Falsified by the first of the points [n] that is inside and that the model gets wrong."""
        model, image = self.task.network.model, self.query.x
        for point in points:
            point = self.inputs.shrunk(self.flat, point).reshape(image.shape)
            candidate = settle(image, point.astype(np.float32), *self.inputs)
            found = replayed(model, self.query, candidate, 1)
            if found.success[0]:
                target = int(found.predicted[0])
                if self.query.labels is None:
                    target = self.goal.nearest(np.asarray(model(tf.constant(candidate)))[0])
                return Verdict(Status.FALSIFIED, None, target, candidate[0], 0.0)
        return None
