"""The command `robustra`: every program by one word.

`robustra train FLAGS` does what `python -m train.main FLAGS` does in a checkout. Nothing but the
program that is asked for is imported, so that `robustra --help` answers at once.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from robustra_tf import __version__


class Command(NamedTuple):
    """A word after `robustra`.

    Attributes:
      program: the module of `robustra_tf.programs` and the function in it that reads the command
        line.
      text: what it does, for the list of commands.
    """

    program: str
    text: str


COMMANDS = {
    "train": Command("train.main:start", "train a pair of networks, or one"),
    "eval": Command("eval.main:start", "clean, attacked and certified error on a test set"),
    "certify": Command("eval.certify:main", "certificates for images of a file or a data set"),
    "attack": Command("eval.attack:main", "adversarial examples for such images"),
    "radius": Command("eval.radius:main", "how far each image can move: certified and attacked"),
    "verify": Command("eval.verify:main", "networks in ONNX against properties in VNN-LIB"),
    "supports": Command("eval.supports:main", "what of these is read, for VNN-LIB 2.0's tools"),
    "export-benchmark": Command(
        "eval.export_benchmark:main", "an evaluation as a benchmark for other verifiers"
    ),
    "cross-check": Command("eval.cross_check:main", "where two verifiers' results differ"),
    "check": Command("eval.check:main", "derive a certificate's file anew, by NumPy alone"),
    "pair-study": Command("eval.pair_study:main", "pairs from trained runs beside their parts"),
    "hash": Command("eval.network:main", "a network's hash, as certificates name it"),
    "merge": Command("eval.merge:main", "one evaluation of parts of a test set"),
    "report": Command("eval.report:main", "write the page of an evaluation anew"),
    "watch": Command("eval.watch:main", "a page of how far a run has come"),
    "curves": Command("eval.curves:main", "draw the curves of training runs"),
    "sweep": Command("train.sweep.__main__:start", "search recipes on held-out training images"),
    "motivation": Command(
        "train.motivation.__main__:start", "train away from another network's gradients"
    ),
}
#: What an extra of the package installs, by the name that Python imports it by.
EXTRAS = {
    "jinja2": "report",
    "matplotlib": "report",
    "optuna": "sweep",
    "tensorflow_datasets": "data",
}
_BAD_USAGE = 2
#: What VNN-LIB's standard asks of every solver, each the whole line.
_ABOUT = {"--name": "robustra", "--version": __version__}


def usage() -> str:
    """The list of commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.text}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: robustra COMMAND [--flag=value ...]",
            "",
            "Provably robust networks in TensorFlow/Keras: train, certify, evaluate.",
            "",
            *lines,
            "",
            "robustra COMMAND --help lists the flags of one.",
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program that the first argument names; ends with its exit code.

    Args:
      arguments: without the program's name; default: the process's own.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given:
        sys.stderr.write(usage())
        return _BAD_USAGE
    name, *flags = given
    if name in ("help", "--help", "-h"):
        sys.stdout.write(usage())
        return 0
    if name in _ABOUT:
        sys.stdout.write(f"{_ABOUT[name]}\n")
        return 0
    if name not in COMMANDS:
        sys.stderr.write(f"robustra: expected one of {', '.join(COMMANDS)}, got {name!r}\n")
        return _BAD_USAGE
    sys.argv[:] = [f"robustra {name}", *flags]  # what the program calls itself
    module, _, function = COMMANDS[name].program.partition(":")
    try:
        return getattr(importlib.import_module(f"{__package__}.{module}"), function)() or 0
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        wanted = f"{error.name}, which pip install 'robustra-tf[{extra}]' brings"
        sys.stderr.write(f"robustra {name}: needs {wanted}\n")
        return _BAD_USAGE
