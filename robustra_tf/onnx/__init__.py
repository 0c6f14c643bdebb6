"""Networks in ONNX as Keras models, and back."""

from robustra_tf.onnx.reading import load
from robustra_tf.onnx.writing import save

__all__ = ["load", "save"]
