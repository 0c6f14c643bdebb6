"""Hashes that tell whether two runs were about the same network and the same data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import keras


def arrays_sha256(arrays: Iterable[np.ndarray]) -> str:
    """SHA-256 over dtype, shape and bytes of the arrays, in their order, as hexadecimal digits."""
    digest = hashlib.sha256()
    for array in arrays:
        array = np.asarray(array)
        # Little-endian, so that the hash does not depend on the machine.
        array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
        digest.update(f"{array.dtype.str}{list(array.shape)}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def weights_sha256(model: keras.Model) -> str:
    """SHA-256 of a model's weights, in the order of `model.weights`."""
    return arrays_sha256(weight.numpy() for weight in model.weights)
