"""What a motivation run is: one frozen dataclass, with presets for what is not given."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustra_tf import vocabulary
from robustra_tf.cli import command, settings
from robustra_tf.cli.settings import Range
from robustra_tf.data import INFO as DATASETS

from .. import presets
from ..config import Config

_as_training = functools.partial(command.same, Config)
_attacks = functools.partial(command.setting, topic="Attacks")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a run, checked; the radius is of the attacks alone."""

    dataset: str = _as_training("dataset", text="data set", choices=tuple(DATASETS))
    model: str = _as_training(
        "model", text="architecture of both networks", default=dataclasses.MISSING
    )
    alignment: float = command.setting(
        "lambda, the weight of |cos| in f's loss", 0.1, topic="What is trained", range=Range(0)
    )
    eps: float = _as_training("eps", topic="Attacks")
    norm: str = _as_training("norm", topic="Attacks")
    attack_steps: int = _attacks("steps of each restart", 20, range=Range(1))
    attack_restarts: int = _attacks("restarts of the attacks", 1, range=Range(1))
    epochs: int = _as_training("epochs", text="epochs of both networks", default=20, otherwise=None)
    batch_size: int = _as_training("batch_size", otherwise="by data set")
    optimizer: str = _as_training("optimizer", choices=("adam", "sgd"))
    lr: float = _as_training("lr", otherwise="by data set")
    momentum: float = _as_training("momentum")
    weight_decay: float = _as_training("weight_decay")
    clip_norm: float = _as_training("clip_norm")
    shift: int = _as_training("shift")
    mirror: bool = _as_training("mirror")
    limit_train: int = _as_training("limit_train")
    limit_test: int = _as_training("limit_test", text="attack so many test examples an epoch")
    data_dir: str | None = _as_training("data_dir")
    workdir: str = _as_training("workdir", otherwise="runs/DATASET-motivation")
    seed: int = _as_training("seed", text="of the weights, the order of the data and the attacks")
    deterministic: bool = _as_training("deterministic")

    def __post_init__(self):
        command.check(self)
        info = DATASETS[self.dataset]
        fitting = [name for name, shape in vocabulary.MODEL_INPUTS.items() if shape == info.shape]
        settings.one_of("model", self.model, fitting)
        settings.radius("eps", self.eps, self.norm, info.shape)
        settings.within("shift", self.shift, Range(0, info.shape[0] - 1, "pixels"))
        settings.within("limit_train", self.limit_train, Range(1, info.splits["train"]))
        settings.within("limit_test", self.limit_test, Range(1, info.splits["test"]))


FIELDS = command.names(Settings)
# What a preset says of training against references.
_NOT_FROM_PRESETS = {"epochs", "norm"}


def resolve(given: Mapping[str, Any]) -> Settings:
    """The settings of a run from those that were given, the dataset's preset for the rest.

    Args:
      given: fields of `Settings`; those that are absent or None come from the preset.

    Raises:
      SettingError: a setting out of range; one line that names it and what is allowed.
      TypeError: a name that is no field.
    """
    given = {name: value for name, value in given.items() if value is not None}
    dataset = settings.one_of("dataset", given.get("dataset", presets.DEFAULT_DATASET), DATASETS)
    wanted = set(FIELDS) - _NOT_FROM_PRESETS
    values = {k: v for k, v in presets.OF_DATASET[dataset].items() if k in wanted}
    values["limit_train"] = DATASETS[dataset].splits["train"]
    values["workdir"] = str(Path("runs") / f"{dataset}-motivation")
    return Settings(**(values | given))
