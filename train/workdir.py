"""Whether a run may begin or go on in a folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from robustra_tf import settings
from robustra_tf.data import find as find_data
from robustra_tf.files import InUseError, hold, write_atomically
from robustra_tf.reading import read_json
from robustra_tf.settings import SettingError
from robustra_tf.training.workdir import Workdir

from . import config as configs
from .config import Config


def open_run(
    given: Mapping[str, Any], resume: bool, ready: Callable[[Config], None] = lambda config: None
) -> tuple[Config, Workdir]:
    """Settles a run's configuration and its folder, and writes `config.json` for a new one.

    The folder is this process's until it ends.

    Args:
      given: the settings that were given, fields of `Config`; absent or None where not.
      resume: go on with the run of the folder. Settings not given are then the stored ones, and
        those given must agree with them. A folder without a run begins one.
      ready: called with the configuration once it is settled and before anything is written; what
        it raises ends the opening.

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
        config = _stored(workdir, given)
        find_data(config.dataset, config.data_dir)
        ready(config)
        return config, workdir
    config = configs.resolve(given)
    find_data(config.dataset, config.data_dir)
    ready(config)
    root.mkdir(parents=not chosen, exist_ok=True)
    _hold(root)
    if workdir.config.exists():  # Another process was faster, and has ended.
        return open_run(given, resume, ready)
    write_atomically(workdir.config, json.dumps(dataclasses.asdict(config), indent=2) + "\n")
    return config, workdir


def _hold(root: Path) -> None:
    try:
        hold(root)
    except InUseError as error:
        wanted = f"a folder that no other process works in ({error})"
        raise SettingError("workdir", wanted, str(root)) from error


def _stored(workdir: Workdir, given: Mapping[str, Any]) -> Config:
    try:
        stored = read_json(workdir.config)
        if not isinstance(stored, dict) or set(stored) != set(configs.FIELDS):
            raise ValueError("its settings are not this program's")
    except ValueError as error:
        problem = f"a run that can be resumed ({workdir.config}: {error})"
        raise SettingError("workdir", problem, str(workdir.root)) from error
    if different := configs.differences(stored, given):
        wanted = f"the configuration of {workdir.config}"
        raise SettingError("resume", wanted, "; ".join(different))
    places = {name: given[name] for name in configs.PLACES if given.get(name) is not None}
    return Config(**(stored | places | {"workdir": str(workdir.root)}))
