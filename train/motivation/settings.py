"""What a motivation run is: one frozen dataclass, with presets for what is not given."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustra_tf import settings
from robustra_tf.data import INFO as DATASETS

from .. import presets
from ..config import OPTIMIZERS

#: Beside what a dataset's preset says.
_DEFAULTS = {"alignment": 0.1, "epochs": 20, "attack_steps": 20, "attack_restarts": 1}
_FROM_PRESETS = (
    "model",
    "eps",
    "batch_size",
    "optimizer",
    "lr",
    "momentum",
    "weight_decay",
    "clip_norm",
    "shift",
    "mirror",
    "limit_test",
    "seed",
    "deterministic",
    "data_dir",
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a run, checked."""

    dataset: str
    model: str
    alignment: float  # lambda
    eps: float  # of the attacks alone, in pixels of [0, 1]
    norm: str
    attack_steps: int
    attack_restarts: int
    epochs: int
    batch_size: int
    optimizer: str
    lr: float
    momentum: float
    weight_decay: float
    clip_norm: float  # 0: no clipping
    shift: int  # pixels that training images move by at most
    mirror: bool
    limit_train: int
    limit_test: int
    seed: int
    deterministic: bool
    data_dir: str | None
    workdir: str

    def __post_init__(self):
        settings.one_of("dataset", self.dataset, DATASETS)
        info = DATASETS[self.dataset]
        fitting = [name for name, shape in settings.MODEL_INPUTS.items() if shape == info.shape]
        settings.one_of("model", self.model, fitting)
        settings.within("alignment", self.alignment, 0)
        settings.one_of("norm", self.norm, settings.NORMS)
        settings.radius("eps", self.eps, self.norm, info.shape)
        for name in ("attack_steps", "attack_restarts", "epochs", "batch_size"):
            settings.within(name, getattr(self, name), 1)
        settings.one_of("optimizer", self.optimizer, OPTIMIZERS)
        settings.within("lr", self.lr, 0, open_low=True)
        settings.within("momentum", self.momentum, 0, 1)
        settings.within("weight_decay", self.weight_decay, 0)
        settings.within("clip_norm", self.clip_norm, 0, unit="(0: none)")
        settings.within("shift", self.shift, 0, info.shape[0] - 1, unit="pixels")
        settings.within("limit_train", self.limit_train, 1, info.train)
        settings.within("limit_test", self.limit_test, 1, info.test)
        settings.within("seed", self.seed, 0, 2**31 - 1)


FIELDS = tuple(field.name for field in dataclasses.fields(Settings))


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
    preset = presets.OF_DATASET[dataset]
    values = _DEFAULTS | {name: preset[name] for name in _FROM_PRESETS}
    values |= {"dataset": dataset, "norm": "linf", "limit_train": DATASETS[dataset].train}
    values["workdir"] = str(Path("runs") / f"{dataset}-motivation")
    return Settings(**(values | given))
