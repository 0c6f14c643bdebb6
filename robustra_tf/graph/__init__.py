"""Keras models as immutable graphs of affine operations and ReLUs."""

from robustra_tf.graph.build import build, logits
from robustra_tf.graph.convert import UnsupportedLayerError, supported
from robustra_tf.graph.graph import Graph, Network, Node, Structure

__all__ = [
    "Graph",
    "Network",
    "Node",
    "Structure",
    "UnsupportedLayerError",
    "build",
    "logits",
    "supported",
]
