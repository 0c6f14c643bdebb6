"""What is the same for every image: the network, the inputs and how to search."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from robustra_tf.bounds.balls import Box
from robustra_tf.exact.matrices import AffineMap
from robustra_tf.exact.solver import Solver
from robustra_tf.graph.graph import Structure


class Network(NamedTuple):
    """One network in the forms that are needed of it.

    Attributes:
      model: images to logits, as the Keras model runs in float32.
      structure: its graph.
      maps: the graph's affine operations as sparse matrices, by node.
      weights: the graph's, float64.
    """

    model: Callable
    structure: Structure
    maps: Mapping[int, AffineMap]
    weights: list[tf.Tensor]


class Inputs(NamedTuple):
    """`{x' : ||x' - x|| <= eps}` in `norm`, "linf" or "l1", and in `box` where there is one."""

    eps: float
    norm: str
    box: Box | None

    @property
    def l1_radius(self) -> float | None:
        """`eps` where the norm is "l1": what the pixels' intervals do not say."""
        return self.eps if self.norm == "l1" else None

    def reach(self, x: np.ndarray) -> float:
        """How far points about the image `x` [n] may go in the norm, to stay inside in float32."""
        if self.norm == "linf":
            return self.eps
        spacing = float(np.spacing(np.float32(np.abs(x).max() + self.eps)))
        return max(self.eps - len(x) * spacing, 0.0)

    def intervals(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The interval of every pixel, float64 [n] each, about the image `x` [n]."""
        low, high = x - self.eps, x + self.eps
        if self.box is not None:
            low, high = np.maximum(low, self.box[0]), np.minimum(high, self.box[1])
        return low, high


class Task(NamedTuple):
    """What a verifier does with an image.

    Attributes:
      network: the network.
      inputs: the set about an image that is searched.
      solver: what answers where a short search does not.
      threads: that a solve may use.
    """

    network: Network
    inputs: Inputs
    solver: Solver
    threads: int
