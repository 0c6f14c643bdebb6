"""The arrays of an archive, each of them taken once."""

from __future__ import annotations

import numpy as np

from .archive import there
from .network import need

FLOATS, INTEGERS = ("<f4", "<f8"), ("<i4", "<i8")


class Members:
    """Arrays by name; those of a part, as `0/x` of part `0`, by what follows."""

    def __init__(self, arrays: dict[str, np.ndarray], prefix: str = ""):
        self.arrays, self.prefix = arrays, prefix

    def of(self, part: str) -> Members:
        """The arrays of a part."""
        return Members(self.arrays, f"{self.prefix}{part}/")

    def has(self, name: str) -> bool:
        """Whether there is one."""
        return self.prefix + name in self.arrays

    def take(self, name: str, kinds: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
        """An array of such a type and shape; of `FLOATS` as float64."""
        values = self.raw(name, kinds)
        need(values.shape == shape, self.prefix + name, f"shape {shape}", values.shape)
        return values.astype(np.float64) if kinds == FLOATS else values

    def raw(self, name: str, kinds: tuple[str, ...]) -> np.ndarray:
        """An array of such a type."""
        name = self.prefix + name
        values = there(name, self.arrays.pop(name, None))
        need(values.dtype.str in kinds, name, f"type {' or '.join(kinds)}", values.dtype)
        return values

    def count(self, name: str, axes: int = 1) -> int:
        """How many entries along the first axis of a member that is not taken yet; one or more."""
        values = self.arrays.get(self.prefix + name)
        found = len(values) if values is not None and values.ndim == axes else 0
        expected = f"{'one axis' if axes == 1 else f'{axes} axes'}, not empty"
        need(found > 0, self.prefix + name, expected, "none" if values is None else values.shape)
        return found

    def weights(self) -> list[np.ndarray]:
        """All `weight_k`."""
        found = []
        while self.has(f"weight_{len(found)}"):
            found.append(self.raw(f"weight_{len(found)}", ("<f4",)))
        return found

    def finished(self) -> None:
        """Nothing is left over."""
        need(not self.arrays, "file", "no further members", ", ".join(sorted(self.arrays)))
