"""What is searched: the network, how to search, and the inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from robustra_tf.exact.matrices import AffineMap
from robustra_tf.exact.options import SearchOptions
from robustra_tf.exact.solver import Solver
from robustra_tf.graph.graph import Structure
from robustra_tf.property import Interval


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
    """`{x' : ||x' - x|| <= eps}` in `norm`, "linf" or "l1", and in `box` where there is one.

    Radii and ends of the box may be arrays [1, *input_shape], for `l1` radii [1, 1, ...].
    """

    eps: float | np.ndarray
    norm: str
    box: Interval | None

    @property
    def l1_radius(self) -> float | None:
        """`eps` where the norm is "l1": what the pixels' intervals do not say."""
        return float(np.max(self.eps)) if self.norm == "l1" else None

    def reach(self, x: np.ndarray) -> float:
        """How far points about the image `x` [n] may go in an l_1 ball, to stay inside in float32.

        Its radius; smaller by what float32 may add to every pixel.
        """
        eps = float(np.max(self.eps))
        spacing = float(np.spacing(np.float32(np.abs(x).max() + eps)))
        return max(eps - len(x) * spacing, 0.0)

    def shrunk(self, x: np.ndarray, point: np.ndarray) -> np.ndarray:
        """A point [n] about the image `x` [n] drawn in so far that float32 keeps it inside."""
        if self.norm == "linf":
            return point
        share = self.reach(x) / max(float(np.max(self.eps)), np.finfo(float).tiny)
        return x + share * (point - x)

    def intervals(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The interval of every pixel, float64 [n] each, about the image `x` [n]."""
        low, high = x - np.ravel(self.eps), x + np.ravel(self.eps)
        if self.box is not None:
            low, high = (
                choose(end, np.ravel(wall))
                for choose, end, wall in zip(
                    (np.maximum, np.minimum), (low, high), self.box, strict=True
                )
            )
        return low, high

    def single(self, x: np.ndarray) -> bool:
        """Whether the image `x` [n] is the whole set."""
        low, high = self.intervals(x)
        return bool((low >= high).all())


class Task(NamedTuple):
    """What a verifier does with an image.

    Attributes:
      network: the network.
      solver: what answers where a short search does not.
      threads: that a solve may use.
      domains: how many domains at a time are searched in its place, or None.
      split: whether inputs are split instead; None: where few of many ReLUs' inputs move.
    """

    network: Network
    solver: Solver
    threads: int
    domains: SearchOptions | None = None
    split: bool | None = False
