"""Several values of a setting in one word, commas between them, as both libraries read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def of_argparse(base: type) -> Callable[[str], tuple]:
    """What argparse calls for a word of values of type `base`."""

    def values(text: str) -> tuple:
        return tuple(base(word) for word in text.split(","))

    values.__name__ = f"list of {base.__name__}"  # argparse names it where a value cannot be read
    return values


def of_absl(base: type) -> Any:
    """absl's parser of a word of values of type `base`."""
    from absl import flags

    class Values(flags.ArgumentParser):
        def parse(self, argument: str) -> list:
            return [*map(base, argument.split(","))] if argument else []

        def flag_type(self) -> str:
            return f"list of {base.__name__}"

    return Values()
