"""A command line declared once: a frozen dataclass, each field with its text, default and range.

Flags of absl or of argparse, the page of `--help` and the checks of single values follow from the
fields that `setting` makes. What ties several fields together is left to `__post_init__`.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import sys
import textwrap
import typing
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, TypeVar

from robustra_tf.cli import settings
from robustra_tf.cli.settings import FlagError, Range
from robustra_tf.cli.values import of_absl, of_argparse

Settings = TypeVar("Settings")

#: How a value is written in `--help`.
_PLACEHOLDERS = {int: "N", float: "X", str: "TEXT", pathlib.Path: "PATH"}
_KEY = "setting"
_WIDTH, _MARGIN = 80, 26
_HELP = ("--help", "-help", "-h", "-?", "--helpshort")


@dataclasses.dataclass(frozen=True)
class Declaration:
    """What a field says of its setting.

    Attributes:
      text: what it is, with its unit.
      topic: the heading in `--help`.
      choices: the values that a text, or each of several, may have; empty for any.
      range: of a number, or of each of several.
      otherwise: what stands where none is given, in words; the field's default by default.
      operands: what stands for the arguments without a flag that the field collects, if it does.
    """

    text: str
    topic: str
    choices: Sequence[str]
    range: Range | None
    otherwise: str | None
    operands: str | None


def setting(
    text: str,
    default: Any = dataclasses.MISSING,
    *,
    topic: str = "Options",
    choices: Sequence[str] = (),
    range: Range | None = None,
    otherwise: str | None = None,
    operands: str | None = None,
) -> Any:
    """A field of a dataclass that is a command line; its arguments are `Declaration`'s.

    A field without a default must be given, or else be found by the program: then `otherwise` says
    how. Fields are of type str, int, float, bool, Path, a tuple of any number of these, or one of
    them or None.
    """
    declaration = Declaration(text, topic, tuple(choices), range, otherwise, operands)
    return dataclasses.field(default=default, metadata={_KEY: declaration})


def same(kind: type, name: str, **changed: Any) -> Any:
    """A field declared as another command's, but for what is `changed`, the default included."""
    (field,) = [field for field in dataclasses.fields(kind) if field.name == name]
    default = changed.pop("default", field.default)
    declaration = dataclasses.replace(field.metadata[_KEY], **changed)
    return dataclasses.field(default=default, metadata={_KEY: declaration})


def names(kind: type) -> tuple[str, ...]:
    """The settings of a command, in their order."""
    return tuple(field.name for field in dataclasses.fields(kind))


def check(values: Any) -> None:
    """Checks each setting of a command alone; what is None is not given.

    Raises:
      SettingError: a value that is none of the choices or outside its range.
    """
    for field, declaration in _declared(type(values)):
        value = getattr(values, field.name)
        if value is None:
            continue
        for one in value if isinstance(value, tuple | list) else (value,):
            if declaration.choices:
                settings.one_of(field.name, one, declaration.choices)
            if declaration.range is not None:
                settings.within(field.name, one, declaration.range)


def define(flag_values: Any, *kinds: type) -> None:
    """Declares absl's flags of commands; the value of a flag that is not given is None.

    Args:
      flag_values: an `absl.flags.FlagValues`.
      kinds: dataclasses of `setting` fields.
    """
    from absl import flags

    made = {int: flags.DEFINE_integer, float: flags.DEFINE_float, bool: flags.DEFINE_boolean}
    for kind in kinds:
        hints = typing.get_type_hints(kind)
        for field, declaration in _declared(kind):
            base, several = _type(hints[field.name])
            told = _told(field, declaration)
            if several and base is not str:
                parser, shown = of_absl(base), flags.CsvListSerializer(",")
                flags.DEFINE(parser, field.name, None, told, flag_values, shown)
                continue
            make = flags.DEFINE_list if several else made.get(base, flags.DEFINE_string)
            make(field.name, None, told, flag_values=flag_values)


def parse(flag_values: Any, argv: Sequence[str]) -> list[str]:
    """Reads a command line into absl's `flag_values`.

    Args:
      flag_values: the `absl.flags.FlagValues` that the program declared.
      argv: the command line, the program's name first.

    Returns:
      The program's name alone: positional arguments are refused.

    Raises:
      ValueError: one line: an unknown flag, a value of the wrong type, or a positional argument.
    """
    from absl import flags

    try:
        rest = flag_values(list(argv))
    except flags.Error as error:
        raise ValueError(" ".join(str(error).split())) from error
    if len(rest) > 1:
        raise ValueError(f"expected only flags (--name=value), got {rest[1]!r}")
    return rest


def read(
    kind: type[Settings],
    program: str,
    description: str | None,
    arguments: Sequence[str] | None = None,
) -> Settings:
    """A command's settings from its arguments.

    What cannot be read and what the dataclass refuses (`FlagError`) end the process with one
    line and the code 2.

    Args:
      kind: a frozen dataclass of `setting` fields.
      program: the module, as after `python -m`.
      description: what the program does: its docstring, whose first paragraph `--help` shows.
      arguments: instead of the process's own.
    """
    parser = _Parser(prog=called(program), allow_abbrev=False)
    parser.page = usage(program, description, kind)
    hints = typing.get_type_hints(kind)
    for field, declaration in _declared(kind):
        base, several = _type(hints[field.name])
        common = {"default": field.default, "dest": field.name}
        if declaration.operands:
            needed = field.default is dataclasses.MISSING
            nargs = ("+" if needed else "*") if several else None if needed else "?"
            default = {} if needed else {"default": field.default}
            name = {"metavar": declaration.operands, "nargs": nargs, **default}
            parser.add_argument(field.name, type=base, **name)
        elif base is bool:
            parser.add_argument(f"--{field.name}", action="store_true", **common)
            parser.add_argument(f"--no{field.name}", action="store_false", **common)
        else:
            required = field.default is dataclasses.MISSING
            read_one = of_argparse(base) if several else base
            parser.add_argument(f"--{field.name}", type=read_one, required=required, **common)
    given = vars(parser.parse_args(arguments))
    try:
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})
    except FlagError as error:
        parser.error(str(error))


def asks_for_help(argv: Sequence[str]) -> bool:
    """Whether a command line asks for the page of `usage`."""
    return any(word in _HELP for word in argv)


def usage(program: str, description: str | None, *kinds: type) -> str:
    """The page of `--help`: at most 80 columns, the settings under their topics.

    Args:
      program: the module, as after `python -m`.
      description: its docstring, of which the first paragraph is shown.
      kinds: dataclasses of `setting` fields.
    """
    topics: dict[str, list[str]] = {}
    operands = []
    for kind in kinds:
        hints = typing.get_type_hints(kind)
        for field, declaration in _declared(kind):
            left = declaration.operands or _flag(field.name, hints[field.name], declaration)
            if declaration.operands:
                operand = f"{left}{'...' * _type(hints[field.name])[1]}"
                needed = field.default is dataclasses.MISSING
                operands.append(f" {operand}" if needed else f" [{operand}]")
            entry = _entry(left, _told(field, declaration))
            topics.setdefault(declaration.topic, []).append(entry)
    first = " ".join((description or "").split("\n\n")[0].split())
    name = called(program)
    parts = [
        f"usage: {'python -m ' * (name == program)}{name} [--FLAG=VALUE ...]{''.join(operands)}"
    ]
    parts += [textwrap.fill(first, _WIDTH)]
    parts += ["\n".join([f"{topic}:", *entries]) for topic, entries in topics.items()]
    return "\n\n".join(parts) + "\n"


def called(program: str) -> str:
    """A program's name as its user knows it: `robustra train` where the package's command runs it.

    Args:
      program: the module, which is its name otherwise.
    """
    name = sys.argv[0] if sys.argv else ""
    return name if name.startswith("robustra ") else program


class _Parser(argparse.ArgumentParser):
    """argparse, with our page and one line an error."""

    page = ""

    def format_help(self) -> str:
        return self.page

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{self.prog}: {' '.join(message.split())}\n")
        sys.exit(2)


def _declared(kind: type) -> Iterator[tuple[dataclasses.Field, Declaration]]:
    return ((field, field.metadata[_KEY]) for field in dataclasses.fields(kind))


def _type(hint: Any) -> tuple[type, bool]:
    """The type of a setting's value, or of each of several."""
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    if typing.get_origin(hint) is tuple:
        # A pair of a fixed form is text to whoever reads the flag.
        return (kinds[0], True) if kinds[-1] is Ellipsis else (str, False)
    return _type(kinds[0]) if kinds else (hint, False)


def _flag(name: str, hint: Any, declaration: Declaration) -> str:
    base, several = _type(hint)
    if base is bool:
        return f"--[no]{name}"
    one = "NAME" if declaration.choices else _PLACEHOLDERS[base]
    return f"--{name}={one}" + ",..." * several


def _told(field: dataclasses.Field, declaration: Declaration) -> str:
    """A setting in words: text: choices; range; default."""
    parts = [": ".join([declaration.text, *filter(None, [", ".join(declaration.choices)])])]
    parts += [] if declaration.range is None else [str(declaration.range)]
    if declaration.otherwise is not None:
        parts.append(f"default: {declaration.otherwise}")
    elif field.default is dataclasses.MISSING:
        parts += [] if declaration.operands else ["required"]
    elif field.default is not None:
        parts.append(f"default: {_written(field.default)}")
    return "; ".join(parts)


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ",".join(map(_written, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _entry(left: str, text: str) -> str:
    own = [""] if len(left) > _MARGIN - 4 else []
    lines = own + textwrap.wrap(text, _WIDTH - _MARGIN, break_on_hyphens=False)
    return "\n".join(
        f"{'' if number else '  ' + left:<{_MARGIN}}{line}".rstrip()
        for number, line in enumerate(lines)
    )
