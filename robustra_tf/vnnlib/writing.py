"""Specifications as texts of VNN-LIB 1.0."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from robustra_tf.storage.files import write_atomically
from robustra_tf.vnnlib.cases import Case, Polyhedron, Specification


def write(path: str | os.PathLike[str], given: Specification, about: str = "") -> Path:
    """Writes a file, packed where its name ends in `.gz`; `read` gives the same numbers back.

    Raises:
      OSError: nothing could be written.
    """
    path, content = Path(path), text(given, about).encode()
    if path.suffix == ".gz":
        # Without the time: the same specification is the same file.
        content = gzip.compress(content, mtime=0)
    write_atomically(path, content)
    return path


def text(given: Specification, about: str = "") -> str:
    """The specification as a text, with what it is about as comments before it."""
    lines = [f"; {line}" for line in about.splitlines()]
    lines += [f"(declare-const X_{i} Real)" for i in range(given.inputs)]
    lines += [f"(declare-const Y_{i} Real)" for i in range(given.outputs)]
    if len(given.cases) == 1:
        (case,) = given.cases
        lines += [f"(assert {bound})" for bound in _bounds(case)]
        lines += _any(_every(_conditions(each)) for each in case.polyhedra)
    else:
        lines += _any(
            _every([*_bounds(case), *_conditions(each)])
            for case in given.cases
            for each in case.polyhedra
        )
    return "\n".join(lines) + "\n"


def _any(parts: Iterable[str]) -> list[str]:
    return ["(assert (or", *(f"  {part}" for part in parts), "))"]


def _every(parts: Iterable[str]) -> str:
    return f"(and {' '.join(parts)})"


def _bounds(case: Case) -> Iterator[str]:
    for i, (low, high) in enumerate(zip(case.lower, case.upper, strict=True)):
        yield f"(>= X_{i} {_number(low)})"
        yield f"(<= X_{i} {_number(high)})"


def _conditions(polyhedron: Polyhedron) -> Iterator[str]:
    for row, bound in zip(*polyhedron, strict=True):
        yield _condition(row, bound)


def _condition(row: np.ndarray, bound: float) -> str:
    """`row . y <= bound`, as a comparison of outputs or with a number where it is."""
    used = np.flatnonzero(row)
    if len(used) == 1 and abs(row[used[0]]) == 1:
        sign = ("<=", bound) if row[used[0]] > 0 else (">=", -bound)
        return f"({sign[0]} Y_{used[0]} {_number(sign[1])})"
    if sorted(row[used]) == [-1, 1] and bound == 0:
        return f"(<= Y_{int(row.argmax())} Y_{int(row.argmin())})"
    return f"(<= {_sum(row, used)} {_number(bound)})"


def _sum(row: np.ndarray, used: Iterable[int]) -> str:
    return f"(+ {' '.join(f'(* {_number(row[i])} Y_{i})' for i in used)})"


def _number(value: float) -> str:
    return repr(float(value) + 0.0)  # no -0.0
