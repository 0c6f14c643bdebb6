"""Networks on flattened tensors, whose affine operations are matrices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np
import scipy.sparse as sp

from robustra_tf.graph.graph import Structure


class AffineMap(Protocol):
    """`y = matrix x + offset` on flattened tensors."""

    @property
    def matrix(self) -> sp.csr_array:
        """[outputs, inputs]."""
        ...

    @property
    def offset(self) -> np.ndarray:
        """[outputs]."""
        ...


class Flat(NamedTuple):
    """A network on flattened tensors.

    Attributes:
      structure: its operations.
      maps: of every affine one, by its node; of a sum what one branch contributes.
      absolute: the matrices' absolute values.
    """

    structure: Structure
    maps: Mapping[int, AffineMap]
    absolute: Mapping[int, sp.csr_array]

    @classmethod
    def of(cls, structure: Structure, maps: Mapping[int, AffineMap]) -> Flat:
        """A network with its maps."""
        return cls(structure, maps, {i: sp.csr_array(abs(each.matrix)) for i, each in maps.items()})

    @property
    def sizes(self) -> list[int]:
        """How many units every ReLU has."""
        nodes = self.structure.nodes
        return [int(np.prod(nodes[i].op.out_shape, dtype=int)) for i in self.structure.relus]

    @property
    def starts(self) -> np.ndarray:
        """The number of every ReLU's first unit, and that of all."""
        return np.cumsum([0, *self.sizes])
