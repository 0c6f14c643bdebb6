"""A network of averaged weights, beside the one that learns.

The optimizer keeps the averages: `a = w` after the first step and `a = ema a + (1 - ema) w` after
each further one. Running statistics of batch normalisations are those of the weights that they went
along with: a network of averages takes new ones, as in Izmailov et al. 2018, "Averaging weights
leads to wider optima and better generalization".
"""

from __future__ import annotations

import dataclasses
from typing import Self

import keras
import numpy as np
import tensorflow as tf

from robustra_tf.intake.subject import take
from robustra_tf.training import optimizers
from robustra_tf.training.batch_norm import normalised, running

#: Images whose statistics are taken at a time.
_TOGETHER = 500


@dataclasses.dataclass(frozen=True, eq=False)
class Averaged:
    """A copy of a network that holds its averages as they were at the last `refresh`.

    Attributes:
      copy: the network of averages.
      model: the one that learns.
      optimizer: that of `model`, which keeps averages.
    """

    copy: keras.Model
    model: keras.Model
    optimizer: keras.optimizers.Optimizer

    @classmethod
    def of(cls, model: keras.Model, optimizer: keras.optimizers.Optimizer) -> Self:
        """That of a network and a built optimizer of it; both stay as they are."""
        return cls(keras.models.clone_model(model), model, optimizer)

    def refresh(self, images: np.ndarray) -> None:
        """Takes over the present averages.

        Args:
          images: [n, *shape], of which batch normalisations that learn take their statistics: means
            of those of batches.
        """
        _take_over(self.copy, self.model)
        trained = self.copy.trainable_variables
        averages = optimizers.averages(self.optimizer, len(trained))
        for variable, average in zip(trained, averages, strict=True):
            variable.value.assign(average)
        graph = take(self.copy, door="training").graph
        if not (layers := running(self.copy, graph)):
            return
        network, places = graph.network(), [(one.mean, one.variance) for one in layers]
        batches = np.array_split(images, -(-len(images) // _TOGETHER))
        totals = {place: tf.zeros(()) for pair in places for place in pair}
        for batch in batches:
            there = normalised(network, layers, tf.constant(batch, tf.float32))
            totals = {place: total + there.weights[place] for place, total in totals.items()}
        graph.assign({place: total / len(batches) for place, total in totals.items()})

    def settle(self) -> None:
        """Gives the learning network what the copy holds: it has learnt."""
        _take_over(self.model, self.copy)


def _take_over(mine: keras.Model, theirs: keras.Model) -> None:
    for variable, other in zip(mine.variables, theirs.variables, strict=True):
        variable.value.assign(tf.convert_to_tensor(other.value))
