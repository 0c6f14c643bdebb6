"""What a sweep is, beside the settings of the runs that it makes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustra_tf.cli import command, settings
from robustra_tf.cli.settings import Range, SettingError
from robustra_tf.vocabulary import INNER

from .. import config as configs
from .space import Dimension, read

#: Training images that are held out where it is not said: so many, or a fifth.
_HELD_OUT, _FIFTH = 5000, 5

_setting = functools.partial(command.setting, topic="Sweep")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """The settings of a sweep, checked; flags of `robustra train` say what stays fixed."""

    out: str = _setting("folder of the sweep: trials, table, figure and what is known so far")
    search: tuple[str, ...] = _setting(
        "settings to vary: NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=A|B"
    )
    trials: int = _setting("trials in all", 50, range=Range(1))
    processes: int = _setting("trials at a time, each in a process", 1, range=Range(1))
    judged: int = _setting(
        "held-out examples that finished networks are compared on",
        200,
        range=Range(1),
        otherwise="200, or all there are",
    )
    prune_at: float = _setting(
        "share of the epochs after which the worse trials are ended",
        0.5,
        range=Range(0, 1, unit="(1: none is ended)", open_low=True),
    )
    keep: float = _setting(
        "share of the trials that go on then, by certified error", 0.5, range=Range(0, 1)
    )
    unstable_by: str = _setting(
        "bounds of inner layers by which ReLUs count as unstable; interval for large networks",
        "mixed",
        choices=INNER,
    )
    cost: bool = _setting("count what verification would cost as an objective too", True)
    resume: bool = _setting("go on with the sweep of the folder", False)

    def __post_init__(self):
        command.check(self)
        read(self.search)

    @property
    def space(self) -> tuple[Dimension, ...]:
        """The settings that are varied."""
        return read(self.search)

    @property
    def root(self) -> Path:
        """The folder."""
        return Path(self.out).expanduser()


@dataclasses.dataclass(frozen=True)
class Task:
    """A sweep with what all of its runs have in common.

    Attributes:
      sweep: its settings.
      given: settings of runs that stay as they are.
    """

    sweep: Sweep
    given: Mapping[str, Any]

    def config(self, number: int, drawn: Mapping[str, Any]) -> configs.Config:
        """The configuration of a trial.

        Raises:
          SettingError: what was drawn does not go together.
        """
        folder = str(self.sweep.root / "trials" / f"{number:04d}")
        return configs.resolve({**self.given, **drawn, "workdir": folder})

    @property
    def stored(self) -> dict[str, Any]:
        """What a sweep must agree in with the one that it goes on with, as JSON has it."""
        kept = ("search", "judged", "prune_at", "keep", "unstable_by", "cost")
        own = {name: getattr(self.sweep, name) for name in kept}
        return {"sweep": own | {"search": list(own["search"])}, "runs": dict(self.given)}


def task(sweep: Mapping[str, Any], runs: Mapping[str, Any]) -> Task:
    """A sweep of settings that were given; None for those that were not.

    Raises:
      SettingError: a setting out of its range, also among the ends of what is varied.
      DataNotFoundError: the data set is not where it is looked for.
    """
    own = configs.as_kept({name: value for name, value in sweep.items() if value is not None})
    for name in ("out", "search"):
        if name not in own:
            raise SettingError(name, "one, for there is no default", None)
    made = Sweep(**own)
    given = {name: value for name, value in runs.items() if value is not None}
    for dimension in made.space:
        if dimension.name in given:
            raise SettingError("search", f"no --{dimension.name} beside it", dimension.name)
    if given.get("workdir") is not None:
        raise SettingError("workdir", "none: trials are kept in --out", given["workdir"])
    # The first of all values, for a setting without a default may be among them.
    drawn = {dimension.name: dimension.values[0] for dimension in made.space}
    if not given.get("validation"):
        first = Task(made, given).config(0, drawn)
        given["validation"] = max(1, min(_HELD_OUT, first.limit_train // _FIFTH))
    found = Task(made, given)
    config = found.config(0, drawn)
    for dimension in made.space:
        for value in dimension.values:
            found.config(0, drawn | {dimension.name: value})
    config.origin.require()
    if "judged" not in own:
        made = dataclasses.replace(made, judged=min(made.judged, config.validation))
    settings.within("judged", made.judged, Range(1, config.validation, "(--validation)"))
    return Task(made, given)
