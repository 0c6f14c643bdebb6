"""What an evaluation of properties is: a network, files of VNN-LIB, and the stages."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustra_tf.cli import command, settings
from robustra_tf.cli.settings import SettingError
from robustra_tf.storage.reading import read_bytes

from .config import Config, check_together, parse_stages
from .subject import PATHS, Source

SUFFIXES = (".vnnlib", ".vnnlib.gz")
#: Bytes of a list.
_LARGEST = 2**26


@dataclasses.dataclass(frozen=True, kw_only=True)
class Questions(Source):
    """The settings of an evaluation of properties, checked. `stages` always has `clean`."""

    properties: Path = command.same(Config, "properties", default=dataclasses.MISSING)
    stages: tuple[str, ...] = command.same(Config, "stages")
    sound: bool = command.same(Config, "sound")
    dtype: str = command.same(Config, "dtype")
    batch_size: int = command.same(Config, "batch_size")
    attack_steps: int = command.same(Config, "attack_steps")
    attack_restarts: int = command.same(Config, "attack_restarts")
    seed: int = command.same(Config, "seed")
    time_limit: float = command.same(Config, "time_limit")
    out: Path = command.same(Config, "out")
    resume: bool = command.same(Config, "resume")
    overwrite: bool = command.same(Config, "overwrite")

    def __post_init__(self):
        super().__post_init__()
        check_together(self)

    @property
    def about(self) -> str:
        """What the network is evaluated on, for people."""
        return str(self.properties)


def resolve(given: Mapping[str, Any]) -> Questions:
    """The configuration of an evaluation of properties; as `config.resolve`.

    Raises:
      SettingError: a setting missing, out of range, or one that is for images.
    """
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if name not in command.names(Questions):
            raise SettingError(name, "none with --properties, which say it themselves", given[name])
    given |= {name: Path(given[name]).expanduser() for name in PATHS if name in given}
    if "out" not in given:
        raise SettingError("out", "a directory for the results", None)
    given["properties"] = Path(given["properties"]).expanduser()
    given["out"] = settings.output_directory("out", given["out"])
    given["stages"] = parse_stages(given.get("stages", Config.stages))
    given.setdefault("dtype", "float64" if given.get("sound") else "float32")
    questions = Questions(**given)
    questions.trained_for()  # Refuses a file that is no network.
    with settings.naming("properties"):
        listed(questions.properties)
    return questions


def listed(place: Path) -> dict[str, Path]:
    """The files of properties by the names that the ledger has for them, in their order.

    Args:
      place: one file of VNN-LIB; a folder, of which all are taken in the order of their names; or a
        list, `.csv`, with the path of one in every line, beside the list.

    Raises:
      OSError, ValueError: there is none, or a list that names something else.
    """
    if place.is_dir():
        files = {
            file.name: file for file in sorted(place.iterdir()) if file.name.endswith(SUFFIXES)
        }
        if not files:
            raise ValueError(f"{place}: expected files {' or '.join(SUFFIXES)} in it, got none")
        return files
    if not place.is_file():
        raise FileNotFoundError(f"{place}: there is no such file or folder")
    if place.suffix == ".csv":
        return _of_list(place)
    if not place.name.endswith(SUFFIXES):
        wanted = f"a file {' or '.join(SUFFIXES)}, a folder of them or a list .csv"
        raise ValueError(f"{place}: expected {wanted}, got another kind of file")
    return {place.name: place}


def _of_list(place: Path) -> dict[str, Path]:
    try:
        text = read_bytes(place, _LARGEST).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{place}: expected UTF-8: {error}") from error
    files: dict[str, Path] = {}
    for number, cells in enumerate(csv.reader(text.splitlines()), start=1):
        if not any(cells):
            continue
        names = [cell.strip() for cell in cells if cell.strip().endswith(SUFFIXES)]
        if len(names) != 1 or names[0] in files:
            what = "a property twice" if names and names[0] in files else ",".join(cells)[:60]
            raise ValueError(f"{place}, line {number}: expected one other property, got {what!r}")
        file = place.parent / names[0]
        if not file.is_file():
            raise FileNotFoundError(f"{place}, line {number}: {file}: there is no such file")
        files[names[0]] = file
    if not files:
        raise ValueError(f"{place}: expected a property or more, got none")
    return files
