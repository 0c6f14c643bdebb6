"""A question about images that is answered at once: what `certify` and `attack` have in common."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self, TypeVar

from robustra_tf.backend import BackendError, require_tensorflow_backend
from robustra_tf.cli import command, settings
from robustra_tf.cli.program import Program
from robustra_tf.cli.settings import SettingError
from robustra_tf.data import Dataset

from .config import Config
from .subject import Examined

if TYPE_CHECKING:
    import keras


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked(Examined):
    """A network, images, which may stand without a flag, and a ball about each."""

    needs_eps: ClassVar[bool] = True

    data: Path | None = command.same(
        Examined,
        "data",
        text="an .npz file of x and y, or a folder of images by class; or --dataset",
        operands="IMAGES",
    )
    eps: float | None = command.same(Config, "eps", default=None)
    norm: str | None = command.same(Config, "norm", default=None)

    def settled(self) -> Self:
        """The same with what the network knows and what is usual where nothing was given.

        Raises:
          FlagError: something is not there, damaged or out of its range.
        """
        known = self.trained_for()
        if self.data is not None:
            known.pop("dataset", None)
        missing = {name: value for name, value in known.items() if getattr(self, name) is None}
        given = dataclasses.replace(self, **missing)
        split, info = given.checked()
        norm = given.norm or "linf"
        if given.eps is not None:
            settings.radius("eps", given.eps, norm, info.shape)
        elif self.needs_eps:
            raise SettingError("eps", "a radius in pixels of [0, 1]", None)
        return dataclasses.replace(given, split=split, norm=norm)


Question = TypeVar("Question", bound=Asked)


def answer(
    program: Program,
    kind: type[Question],
    description: str | None,
    arguments: Sequence[str] | None,
    work: Callable[[Question, keras.Model, Dataset], str],
) -> int:
    """Reads a command line, loads what it names, and prints what `work` finds.

    Args:
      program: its voice.
      kind: the command's settings.
      description: its docstring.
      arguments: instead of the process's own.
      work: from the settings, the network and the examples to what is printed.

    Returns:
      The process's exit code.
    """
    given = program.read(kind, description, arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        given = given.settled()
        program.say(f"{given.place} on {given.origin.name}; starting TensorFlow")
        require_tensorflow_backend()
        from . import inputs

        model = inputs.load_network(given)
        examples = inputs.load_examples(given, settings.known("split", given.split))
        inputs.check_examples(examples, model, given.where)
        found = work(given, model, examples)
    except (ValueError, OSError, BackendError) as error:
        return program.refuse(error)
    print(found)
    return 0


def as_csv(names: Sequence[str], columns: Iterable[Iterable]) -> str:
    """A table as CSV, the names of its columns first."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([names, *zip(*columns, strict=True)])
    return text.getvalue()
