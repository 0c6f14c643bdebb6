"""How a program speaks to its user: lines on standard error, its name before each."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from robustra_tf.settings import parse
from robustra_tf.stopping import Exit


class Program:
    """The voice of one program.

    Args:
      name: as its user calls it, such as `train.main`.
    """

    def __init__(self, name: str):
        self._name = name

    def say(self, text: str) -> None:
        """Tells the user something, on one line."""
        sys.stderr.write(f"{self._name}: {' '.join(text.split())}\n")
        sys.stderr.flush()

    def refuse(self, error: Exception) -> Exit:
        """Says why the program cannot be run as it stands, and gives the code to exit with."""
        self.say(str(error))
        return Exit.BAD_USAGE

    def parse(self, flag_values: Any, argv: Sequence[str]) -> list[str]:
        """`settings.parse`, but a command line that cannot be read ends the process."""
        try:
            return parse(flag_values, argv)
        except ValueError as error:
            sys.exit(self.refuse(error))
