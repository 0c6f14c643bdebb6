"""A frozen dataclass of settings from the command line: one flag per field."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from robustra_tf.settings import SettingError

Settings = TypeVar("Settings")


def option(default: Any, text: str, choices: Sequence[str] | None = None) -> Any:
    """A field with its flag's help text; a default of None means that the flag may be absent."""
    return dataclasses.field(default=default, metadata={"help": text, "choices": choices})


def parse(
    kind: type[Settings], description: str | None, arguments: Sequence[str] | None = None
) -> Settings:
    """An instance of `kind`, a frozen dataclass whose fields are `option`s, from the flags.

    A value that the dataclass refuses (`SettingError`) or that cannot be read ends the program
    with one line.

    Args:
      kind: the dataclass. Its fields are str, int, float, tuples of int, or optional ones of these.
      description: what the program does.
      arguments: instead of the process's own.
    """
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        default = field.default
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        ending = "" if default is None else f" (default: {shown})"
        parser.add_argument(
            f"--{field.name}",
            type=_reader(hints[field.name]),
            choices=field.metadata["choices"],
            default=default,
            help=field.metadata["help"] + ending,
        )
    given = parser.parse_args(arguments)
    try:
        return kind(**vars(given))
    except SettingError as error:
        parser.error(str(error))


def _reader(hint: Any) -> Callable[[str], Any]:
    if typing.get_origin(hint) is tuple:
        return _whole_numbers
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    return kinds[0] if kinds else hint


def _whole_numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))
