"""Files of VNN-LIB into specifications."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from robustra_tf.storage.reading import read_bytes
from robustra_tf.vnnlib.cases import Specification, specification
from robustra_tf.vnnlib.second import Signature, parse_second, signature
from robustra_tf.vnnlib.syntax import Form, MalformedError, Token, forms
from robustra_tf.vnnlib.terms import Alternatives, Variable, alternatives, combined, variable_of

Found = TypeVar("Found")
#: Bytes of a text. One of a network of 150,528 inputs takes 12 MB.
LARGEST = 2**27


def read(path: str | os.PathLike[str]) -> Specification:
    """What a file says, `.vnnlib` or `.vnnlib.gz`, of version 1.0 or 2.0.

    Raises:
      OSError: it cannot be read.
      ImportError: it is of version 2.0, and the package of the extra onnx is not installed.
      ValueError: it is no such file, or says what cannot be handled; the text names the file and,
        where one is to blame, line and token.
    """
    return _of_text(Path(path), parse)


def read_signature(path: str | os.PathLike[str]) -> Signature:
    """What a file of version 2.0 calls its network, input and output; raises as `read`."""

    def of_second(text: str) -> Signature:
        for first in forms(text)[:1]:
            _check_second(first)
        return signature(text)

    return _of_text(Path(path), of_second)


def _check_second(first: Form) -> None:
    """Refuses what the first form does not call version 2.0."""
    version = first.items[1] if first.head == "vnnlib-version" and len(first.items) == 2 else None
    if not re.fullmatch(r"<2\.\d+>", getattr(version, "text", "")):
        raise MalformedError(first.line, "expected version <2.0>, got another one")


def _of_text(path: Path, parser: Callable[[str], Found]) -> Found:
    content = read_bytes(path, LARGEST)
    try:
        return parser(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8: {error}") from error
    except MalformedError as error:
        raise ValueError(f"{path}: {error}") from error


def parse(text: str) -> Specification:
    """What a text of VNN-LIB says.

    Raises:
      MalformedError: as `read` refuses a file.
    """
    found = forms(text)
    if not found:
        raise MalformedError(0, "expected declarations and assertions, got none")
    if found[0].head == "vnnlib-version":
        _check_second(found[0])
        return gathered(*parse_second(text))
    declared: set[Variable] = set()
    asserted: list[Alternatives] = []
    for form in found:
        if form.head == "declare-const":
            _declare(form, declared)
        elif form.head == "assert" and len(form.items) == 2:
            asserted.append(alternatives(form.items[1], declared))
        else:
            raise MalformedError(
                form.line, f"expected (declare-const NAME Real) or (assert CONDITION), got {form}"
            )
    return gathered(asserted, {kind: _count(kind, declared) for kind in "XY"})


def gathered(asserted: Iterable[Alternatives], sizes: dict[str, int]) -> Specification:
    """The specification of assertions, all of which hold."""
    alone, several = [], []
    for part in asserted:
        (alone if len(part) == 1 else several).append(part)
    joined = combined("and", several, lambda why: MalformedError(0, why))
    return specification(alone, sizes, joined)


def _declare(form: Form, declared: set[Variable]) -> None:
    name, kind = form.items[1:] if len(form.items) == 3 else (None, None)
    if not isinstance(name, Token) or not isinstance(kind, Token) or kind.text != "Real":
        raise MalformedError(form.line, f"expected (declare-const NAME Real), got {form}")
    variable = variable_of(name)
    if variable is None:
        raise MalformedError(name.line, f"expected a name X_0, ... or Y_0, ..., got {name}")
    if variable in declared:
        raise MalformedError(name.line, f"expected every name once, got {name} again")
    declared.add(variable)


def _count(kind: str, declared: set[Variable]) -> int:
    numbers = {index for letter, index in declared if letter == kind}
    missing = [index for index in range(len(numbers)) if index not in numbers]
    if missing or not numbers:
        first = missing[0] if missing else 0
        raise MalformedError(
            0, f"expected {kind}_{first} to be declared, got {len(numbers)} others"
        )
    return len(numbers)
