"""What a run is: one frozen dataclass, with presets for what is not given."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustra_tf import settings
from robustra_tf.data import INFO as DATASETS
from robustra_tf.settings import (
    DUAL_METHODS,
    INITS,
    INNER,
    INTERVAL_METHODS,
    METHODS,
    NORMS,
    PROJECTED_NORMS,
    SettingError,
)

from . import devices, presets

RAMPS = ("epoch", "step")
LR_SCHEDULES = ("halving", "cosine")
SCHEDULES = ("alternating", "parallel")
OPTIMIZERS = ("adam", "sgd")


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of a run, checked. `eps` and `eps_start` are radii in pixels of [0, 1]."""

    preset: str | None  # the recipe that the rest was taken from
    dataset: str
    model: str
    method: str
    pair: bool  # f and g, or f alone
    inner: str  # where `robustra` and `wong` take the bounds of inner layers from
    schedule: str
    devices: str | None  # of the parallel schedule: f's and g's
    split_gpu_mb: int  # of each half of a single GPU; 0: whole
    norm: str
    projection: int  # of robustra and wong; 0: exact bounds of inner layers
    eps: float
    eps_train_ratio: float  # training goes up to this times eps
    eps_start: float
    eps_warmup_epochs: int
    ramp: str
    epochs: int
    batch_size: int
    init: str
    batch_norm: bool
    share: float  # of mtl_ibp and sabr
    clean_share: float  # of the methods on intervals, as the next two
    attack_steps: int
    regulariser: float
    interval_share: float  # of robustra and wong, as the next
    attack_share: float
    optimizer: str
    lr: float
    lr_schedule: str
    momentum: float
    weight_decay: float
    clip_norm: float  # 0: no clipping
    shift: int  # pixels that training images move by at most
    mirror: bool
    limit_train: int
    limit_test: int  # 0: no evaluation on test images
    memory_mb: int
    microbatch: int  # examples worked on at a time; 0: as many as fit memory_mb
    seed: int
    deterministic: bool
    checkpoint_minutes: float  # between two within an epoch; 0: only at the end of each pass
    data_dir: str | None
    workdir: str

    def __post_init__(self):
        _check(self)

    @property
    def eps_end(self) -> float:
        """The radius in pixels that training comes to."""
        return self.eps * self.eps_train_ratio

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks that are trained: a pair, but for the methods on intervals."""
        paired = self.pair and self.method not in INTERVAL_METHODS
        return ("f", "g") if paired else ("f",)


# Where a run is kept, read from and computed, and how often it is saved, says nothing of what it
# computes.
PLACES = ("workdir", "data_dir", "devices", "split_gpu_mb", "checkpoint_minutes")

FIELDS = tuple(field.name for field in dataclasses.fields(Config))


def resolve(given: Mapping[str, Any]) -> Config:
    """The configuration of a run from the settings that were given, presets for the rest.

    Args:
      given: fields of `Config`; those that are absent or None come from the dataset's preset.

    Raises:
      SettingError: a setting out of range; one line that names it and what is allowed.
      TypeError: a name that is no field.
    """
    given = recipe(given) | {name: value for name, value in given.items() if value is not None}
    dataset = settings.one_of("dataset", given.get("dataset", presets.DEFAULT_DATASET), DATASETS)
    values = presets.OF_DATASET[dataset] | {"dataset": dataset, "preset": None}
    values["limit_train"] = DATASETS[dataset].train
    if given.get("method") in INTERVAL_METHODS:
        values |= presets.BY_INTERVALS
    # A small radius of the user's own must not fall below the preset's start.
    if "eps" in given and "eps_start" not in given:
        values["eps_start"] = min(values["eps_start"], given["eps"])
    values["workdir"] = str(default_workdir(given))
    return Config(**(values | given))


def recipe(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the preset that is named among `given`, if any."""
    name = given.get("preset")
    return {} if name is None else presets.NAMED[settings.one_of("preset", name, presets.NAMED)]


def default_workdir(given: Mapping[str, Any]) -> Path:
    """Where a run is kept that names no workdir: runs/PRESET, or else runs/DATASET-METHOD."""
    if given.get("preset") is not None:
        return Path("runs") / given["preset"]
    names = (
        given.get("dataset") or presets.DEFAULT_DATASET,
        given.get("method") or presets.COMMON["method"],
    )
    return Path("runs") / "-".join(names)


def differences(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """The settings among `given` that contradict a stored run, each as "name: stored / given"."""
    return [
        f"--{name} {stored.get(name)!r} there, {value!r} here"
        for name, value in given.items()
        if value is not None and name not in PLACES and stored.get(name) != value
    ]


def _check(config: Config) -> None:
    settings.one_of("dataset", config.dataset, DATASETS)
    info = DATASETS[config.dataset]
    settings.one_of("model", config.model, settings.MODEL_INPUTS)
    fitting = [name for name, shape in settings.MODEL_INPUTS.items() if shape == info.shape]
    if config.model not in fitting:
        raise SettingError("model", f"one for {config.dataset}: {', '.join(fitting)}", config.model)
    settings.one_of("method", config.method, METHODS)
    if config.method == "robustra" and not config.pair:
        raise SettingError("pair", "true with --method=robustra, each other's reference", False)
    settings.one_of("inner", config.inner, INNER if config.method in DUAL_METHODS else INNER[:1])
    _check_schedule(config)
    settings.one_of("ramp", config.ramp, RAMPS)
    settings.one_of("init", config.init, INITS)
    settings.one_of("lr_schedule", config.lr_schedule, LR_SCHEDULES)
    settings.one_of("norm", config.norm, NORMS[:1] if config.method in INTERVAL_METHODS else NORMS)
    _check_projection(config)
    settings.one_of("optimizer", config.optimizer, OPTIMIZERS)
    settings.radius("eps", config.eps, config.norm, info.shape)
    settings.within("eps_start", config.eps_start, 0, config.eps, unit="(eps)")
    settings.within("eps_warmup_epochs", config.eps_warmup_epochs, 0)
    settings.within("epochs", config.epochs, 1)
    settings.within("epochs", config.epochs, config.eps_warmup_epochs, unit="(eps_warmup_epochs)")
    settings.within("eps_train_ratio", config.eps_train_ratio, 0, open_low=True)
    settings.radius("eps_train_ratio", config.eps_end, config.norm, info.shape)
    settings.within("batch_size", config.batch_size, 1)
    for name in ("share", "clean_share", "interval_share", "attack_share"):
        settings.within(name, getattr(config, name), 0, 1)
    for name in ("interval_share", "attack_share"):
        if (value := getattr(config, name)) and config.norm != "linf":
            raise SettingError(name, f"0 with --norm={config.norm}", value)
    settings.within("attack_steps", config.attack_steps, 1)
    settings.within("regulariser", config.regulariser, 0)
    settings.within("lr", config.lr, 0, open_low=True)
    settings.within("momentum", config.momentum, 0, 1)
    settings.within("weight_decay", config.weight_decay, 0)
    settings.within("clip_norm", config.clip_norm, 0, unit="(0: none)")
    settings.within("shift", config.shift, 0, info.shape[0] - 1, unit="pixels")
    settings.within("limit_train", config.limit_train, 1, info.train)
    settings.within("limit_test", config.limit_test, 0, info.test)
    settings.within("memory_mb", config.memory_mb, 16)
    settings.within("microbatch", config.microbatch, 0, unit="(0: what fits memory_mb)")
    settings.within("checkpoint_minutes", config.checkpoint_minutes, 0, unit="(0: only epochs)")
    settings.within("seed", config.seed, 0, 2**31 - 1)


def _check_projection(config: Config) -> None:
    settings.within("projection", config.projection, 0, unit="(0: exact)")
    if not config.projection:
        return
    if config.norm not in PROJECTED_NORMS:
        expected = f"0 with --norm={config.norm}, whose dual norm no projection estimates"
    elif config.method not in DUAL_METHODS:
        expected = f"0 with --method={config.method}"
    elif config.inner != "dual":
        expected = f"0 with --inner={config.inner}"
    else:
        return
    raise SettingError("projection", expected, config.projection)


def _check_schedule(config: Config) -> None:
    paired = len(config.networks) > 1
    settings.one_of("schedule", config.schedule, SCHEDULES if paired else SCHEDULES[:1])
    settings.within("split_gpu_mb", config.split_gpu_mb, 0, unit="(0: whole)")
    if config.schedule == "parallel":
        devices.names(config.devices)
        return
    for name in ("devices", "split_gpu_mb"):
        if value := getattr(config, name):
            raise SettingError(name, f"none with --schedule={config.schedule}", value)
