"""VNN-LIB: what a file says of inputs and outputs, as boxes and polyhedra, and back.

A file describes what must *not* be reached: a violation is an input in one of the boxes whose
outputs lie in one of the polyhedra of that box. Version 1.0 is read by a parser of our own, 2.0 by
the package `vnnlib`.
"""

from robustra_tf.vnnlib.cases import Case, Polyhedron, Specification, grouped
from robustra_tf.vnnlib.reading import parse, read, read_signature
from robustra_tf.vnnlib.second import Signature, Tensor
from robustra_tf.vnnlib.writing import text, write

__all__ = [
    "Case",
    "Polyhedron",
    "Signature",
    "Specification",
    "Tensor",
    "grouped",
    "parse",
    "read",
    "read_signature",
    "text",
    "write",
]
