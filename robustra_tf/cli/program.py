"""How a program speaks to its user: lines on standard error, its name before each."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from robustra_tf.cli import command
from robustra_tf.cli.command import Settings
from robustra_tf.cli.progress import fresh_line
from robustra_tf.cli.stopping import Exit


class Program:
    """The voice of one program.

    Args:
      name: as its user calls it, such as `train.main`.
    """

    def __init__(self, name: str):
        self._name = name

    def say(self, text: str) -> None:
        """Tells the user something, on one line."""
        sys.stderr.write(f"{fresh_line()}{command.called(self._name)}: {' '.join(text.split())}\n")
        sys.stderr.flush()

    def refuse(self, error: Exception) -> Exit:
        """Says why the program cannot be run as it stands, and gives the code to exit with."""
        self.say(str(error))
        return Exit.BAD_USAGE

    def parse(
        self, flag_values: Any, kinds: Sequence[type], description: str | None, argv: Sequence[str]
    ) -> list[str]:
        """`command.parse`; what asks for help or cannot be read ends the process.

        Args:
          flag_values: absl's, as `command.define` declared them.
          kinds: the dataclasses that they were made from.
          description: the program's docstring.
          argv: the command line, the program's name first.
        """
        if command.asks_for_help(argv):
            sys.stdout.write(command.usage(self._name, description, *kinds))
            sys.exit(Exit.DONE)
        try:
            return command.parse(flag_values, argv)
        except ValueError as error:
            sys.exit(self.refuse(error))

    def read(
        self, kind: type[Settings], description: str | None, arguments: Sequence[str] | None = None
    ) -> Settings:
        """`command.read`: the settings of a program whose flags are argparse's."""
        return command.read(kind, self._name, description, arguments)
