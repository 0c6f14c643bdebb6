"""Whether a run may begin or go on in a folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from robustra_tf.cli import settings
from robustra_tf.cli.settings import SettingError
from robustra_tf.storage.description import read_settings
from robustra_tf.storage.files import InUseError, hold, write_atomically
from robustra_tf.storage.reading import read_json
from robustra_tf.training.workdir import Workdir

from . import config as configs
from .config import Config


class Opening(NamedTuple):
    """A run that is about to begin or to go on.

    Attributes:
      config: its settings.
      workdir: its folder.
      stored: whether the folder holds it already.
    """

    config: Config
    workdir: Workdir
    stored: bool

    @property
    def finished(self) -> bool:
        """Whether its networks have been trained for all of its epochs, and exported."""
        return self.stored and all(
            _epochs(self.workdir.model(name)) == self.config.epochs for name in self.config.networks
        )


def open_run(
    given: Mapping[str, Any], resume: bool, ready: Callable[[Opening], None] = lambda opening: None
) -> tuple[Config, Workdir]:
    """Settles a run's configuration and its folder, and writes `config.json` for a new one.

    The folder is this process's until it ends.

    Args:
      given: the settings that were given, fields of `Config`; absent or None where not.
      resume: go on with the run of the folder. Settings not given are then the stored ones, and
        those given must agree with them, but for more epochs, which prolong it. A folder without a
        run begins one.
      ready: called with what is settled before anything is written; what it raises ends the
        opening.

    Raises:
      SettingError: one line: a setting out of range, a folder that cannot be used, one that has a
        run already (without `resume`), one with another configuration, or one in use.
      DataNotFoundError: the dataset is not where it is looked for.
    """
    chosen = given.get("workdir")
    root = Path(chosen).expanduser() if chosen else configs.default_workdir(given)
    if chosen or root.exists():
        settings.output_directory("workdir", root)
    workdir = Workdir(root)
    if workdir.config.exists():
        if not resume:
            wanted = "a folder without a run (--resume goes on with it)"
            raise SettingError("workdir", wanted, str(root))
        _hold(root)
        config, prolonged = _stored(workdir, given)
        config.origin.require()
        ready(Opening(config, workdir, stored=True))
        if prolonged:
            _write(config, workdir)
        return config, workdir
    config = configs.resolve(given)
    config.origin.require()
    ready(Opening(config, workdir, stored=False))
    try:
        root.mkdir(parents=not chosen, exist_ok=True)
    except OSError as error:
        wanted = f"a folder that can be made ({error.strerror}: {error.filename})"
        raise SettingError("workdir", wanted, str(root)) from error
    _hold(root)
    if workdir.config.exists():  # Another process was faster, and has ended.
        return open_run(given, resume, ready)
    _write(config, workdir)
    return config, workdir


def _write(config: Config, workdir: Workdir) -> None:
    write_atomically(workdir.config, json.dumps(dataclasses.asdict(config), indent=2) + "\n")


def _epochs(model: Path) -> Any:
    """How many epochs an exported network was trained for; None where it cannot be told."""
    try:
        return read_settings(model).get("epochs")
    except (OSError, ValueError):
        return None


def _hold(root: Path) -> None:
    try:
        hold(root)
    except InUseError as error:
        wanted = f"a folder that no other process works in ({error})"
        raise SettingError("workdir", wanted, str(root)) from error


def _stored(workdir: Workdir, given: Mapping[str, Any]) -> tuple[Config, bool]:
    """The settings of the run in a folder, and whether it is to have more epochs now."""
    try:
        stored = read_json(workdir.config)
        if not isinstance(stored, dict) or set(stored) != set(configs.FIELDS):
            raise ValueError("its settings are not this program's")
    except ValueError as error:
        problem = f"a run that can be resumed ({workdir.config}: {error})"
        raise SettingError("workdir", problem, str(workdir.root)) from error
    prolonged = given.get("epochs") not in (None, stored["epochs"])
    if different := configs.differences(stored, {**given, "epochs": None}):
        wanted = f"the configuration of {workdir.config}"
        raise SettingError("resume", wanted, "; ".join(different))
    kept = (*configs.PLACES, "epochs")
    places = {name: given[name] for name in kept if given.get(name) is not None}
    values: dict[str, Any] = stored | places | {"workdir": str(workdir.root)}
    config = Config(**configs.as_kept(values))
    if prolonged:
        _check_prolonged(config, stored["epochs"])
    return config, prolonged


def _check_prolonged(config: Config, epochs: int) -> None:
    if config.laid_out:
        wanted = f"{epochs}, as the run was begun: {config.laid_out} is for so many"
        raise SettingError("epochs", wanted, config.epochs)
    more = settings.Range(epochs, unit="with --resume, as the run was begun")
    settings.within("epochs", config.epochs, more)
