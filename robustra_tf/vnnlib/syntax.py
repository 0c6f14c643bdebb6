"""S-expressions with the lines that they stand in."""

from __future__ import annotations

import re
from typing import NamedTuple

#: How deep brackets may nest: what reads them afterwards is recursive.
DEEPEST = 100
_TOKEN = re.compile(r"\n|;[^\n]*|[()]|[^\s();]+")


class MalformedError(ValueError):
    """Text that is no VNN-LIB, or says what cannot be handled; knows its line, 0 of the whole."""

    def __init__(self, line: int, reason: str):
        super().__init__(f"line {line}: {reason}" if line else reason)


class Token(NamedTuple):
    """A word."""

    text: str
    line: int

    def __str__(self) -> str:
        return repr(self.text if len(self.text) <= 40 else self.text[:37] + "...")


class Form(NamedTuple):
    """What stands between two brackets, and the line of the first one."""

    items: tuple[Token | Form, ...]
    line: int

    @property
    def head(self) -> str:
        """The first word; empty where there is none."""
        first = self.items[0] if self.items else None
        return first.text if isinstance(first, Token) else ""

    def __str__(self) -> str:
        return f"'({self.head[:37]} ...'" if self.items else "'()'"


def forms(text: str) -> list[Form]:
    """The forms of a text, comments left out.

    Raises:
      MalformedError: brackets that do not match or nest too deep, a word outside of all.
    """
    found: list[Form] = []
    open_: list[tuple[list, int]] = []
    line = 1
    for match in _TOKEN.finditer(text.replace("\r\n", "\n").replace("\r", "\n")):
        word = match[0]
        if word == "\n":
            line += 1
        elif word == "(":
            open_.append(([], line))
            if len(open_) > DEEPEST:
                raise MalformedError(line, f"expected at most {DEEPEST} nested brackets, got '('")
        elif word[0] == ";":
            continue
        elif not open_:
            raise MalformedError(line, f"expected '(', got {Token(word, line)}")
        elif word == ")":
            items, first = open_.pop()
            (open_[-1][0] if open_ else found).append(Form(tuple(items), first))
        else:
            open_[-1][0].append(Token(word, line))
    if open_:
        raise MalformedError(open_[-1][1], "expected ')' for this '(', got the end")
    return found
