"""What a run is: one frozen dataclass, which is `train.main`'s command line too."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustra_tf import vocabulary
from robustra_tf.cli import command, settings
from robustra_tf.cli.settings import Range, SettingError
from robustra_tf.data import Info
from robustra_tf.training.methods import METHODS, Method
from robustra_tf.vocabulary import INITS, NORMS, THRESHOLDS, TRAINED_INNER

from . import presets
from .checks import SCHEDULES, check
from .material import Material, fitting, parts

RAMPS = ("epoch", "step")
LR_SCHEDULES = ("halving", "cosine", "drops")
OPTIMIZERS = ("adam", "adamw", "radam", "sgd")

_task, _ball, _bounds, _losses, _steps, _data, _run = (
    functools.partial(command.setting, topic=topic)
    for topic in (
        "What is trained",
        "Radius",
        "Bounds",
        "Losses by intervals and attacks",
        "Optimisation",
        "Data",
        "Run",
    )
)
_SHARE = Range(0, 1)
_DUAL = ", ".join(name for name, method in METHODS.items() if method.mixes)
_PAIRED = ", ".join(name for name, method in METHODS.items() if method.needs_reference)
# What is not given and differs from one data set or method to the next.
_PRESET = "by data set and method"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Material):
    """The settings of a run, checked."""

    preset: str | None = _task(
        "a recipe by name, whose settings stand where no flag is given (--list_presets)", None
    )
    method: str = _task("method of training", "robustra", choices=tuple(METHODS))
    pair: bool = _task("wong, natural: train f and g, or f alone (--nopair)", True)
    init: str = _task("how initial weights are drawn", "fan_in", choices=INITS, otherwise=_PRESET)
    batch_norm: bool = _task("batch normalisation behind hidden layers", False)

    norm: str = _ball("norm of the ball", "linf", choices=NORMS)
    eps: float = _ball("radius of the ball, in pixels of [0, 1]", otherwise="by data set")
    eps_train_ratio: float = _ball(
        "training goes up to this times eps", 1.0, range=Range(0, open_low=True)
    )
    eps_start: float = _ball(
        "radius in the first epoch, from 0 to eps, in pixels", otherwise=_PRESET
    )
    eps_warmup_epochs: int = _ball(
        "epochs over which the radius grows to eps", range=Range(0), otherwise="by data set"
    )
    ramp: str = _ball("when the radius grows", "epoch", choices=RAMPS, otherwise=_PRESET)

    inner: str = _bounds(
        f"{_DUAL}: where bounds of inner layers come from", "dual", choices=TRAINED_INNER
    )
    projection: int = _bounds(
        f"{_DUAL}: estimate inner layers by so many random vectors",
        0,
        range=Range(0, unit="(0: exact)"),
    )
    memory_mb: int = _bounds(
        "MiB of working memory of a step's bounds", vocabulary.DEFAULT_MEMORY_MB, range=Range(16)
    )
    microbatch: int = _bounds(
        "examples of a batch worked on at a time",
        0,
        range=Range(0, unit="(0: what fits memory_mb)"),
    )

    share: float = _losses(
        "mtl_ibp, cc_ibp, exp_ibp: from the attack, 0, to intervals, 1; sabr: of the radius",
        0.05,
        range=_SHARE,
    )
    clean_share: float = _losses(
        "methods on intervals: of the clean loss, after the ramp", 0.0, range=_SHARE
    )
    regulariser: float = _losses(
        "methods on intervals: weight of the regulariser of bounds during the ramp",
        0.0,
        range=Range(0),
        otherwise="by method",
    )
    interval_share: float = _losses(f"{_DUAL}: of a loss by intervals", 0.0, range=_SHARE)
    attack_share: float = _losses(f"{_DUAL}: of the loss at attacked images", 0.0, range=_SHARE)
    attack_steps: int = _losses("steps of the attacks", 8, range=Range(1))
    attack_ratio: float = _losses(
        "radius of the attacks, times the radius trained at", 1.0, range=Range(0, open_low=True)
    )

    threshold: str = _losses(
        f"{_PAIRED}: of the reference space, t0 for networks that stand alone, zero for the pair, "
        "ramp from the one to the other",
        "t0",
        choices=THRESHOLDS,
    )
    agreement_weight: float = _losses(
        f"{_PAIRED}: weight of the clean loss beside all else, which keeps the pair answering",
        0.0,
        range=Range(0),
    )

    epochs: int = _steps("epochs, each of f, then g", range=Range(1), otherwise="by data set")
    batch_size: int = _steps("examples a step", 50, range=Range(1), otherwise=_PRESET)
    optimizer: str = _steps("optimizer", choices=OPTIMIZERS, otherwise="by data set")
    lr: float = _steps("learning rate", 1e-3, range=Range(0, open_low=True), otherwise=_PRESET)
    lr_schedule: str = _steps(
        "learning rate after the warm-up", "halving", choices=LR_SCHEDULES, otherwise=_PRESET
    )
    lr_drops: tuple[int, ...] = _steps(
        "drops: epochs that are done when the learning rate falls", (), range=Range(1)
    )
    lr_factor: float = _steps(
        "drops: what it is multiplied by", 0.2, range=Range(0, 1, open_low=True)
    )
    momentum: float = _steps("momentum of sgd", 0.9, range=Range(0, 1))
    weight_decay: float = _steps(
        "added to the gradient times the weights; adamw: what they shrink by, times the rate",
        0.0,
        range=Range(0),
        otherwise="by data set",
    )
    l1: float = _steps("of the sum of the sizes of weights in the loss", 0.0, range=Range(0))
    ema: float = _steps(
        "what an average of the weights, tested and exported, keeps of itself in a step",
        0.0,
        range=Range(0, 0.999999, unit="(0: no average)"),
    )
    clip_norm: float = _steps(
        "largest norm of the gradient",
        0.0,
        range=Range(0, unit="(0: none)"),
        otherwise="by data set",
    )

    shift: int = _data(
        "move training images at random by up to so many pixels (0: not)",
        0,
        otherwise="by data set",
    )
    mirror: bool = _data("mirror training images at random", False, otherwise="by data set")
    order_seed: int | None = _data(
        "of the order of the data", None, range=Range(0, 2**31 - 1), otherwise="--seed"
    )
    augmentation_seed: int | None = _data(
        "of shifts and mirroring", None, range=Range(0, 2**31 - 1), otherwise="--seed"
    )
    validation: int = _data(
        "training examples held out, in place of test examples, the same for every seed",
        0,
        range=Range(0, unit="(0: none)"),
    )
    limit_train: int = _data("train on the first so many examples", otherwise="all")
    limit_test: int = _data(
        "evaluate on so many test examples an epoch (0: none)",
        otherwise="by data set",
    )

    workdir: str = _run("folder of the run", otherwise="runs/PRESET or runs/DATASET-METHOD")
    seed: int = _run("of the weights, the data's order and draws", 0, range=Range(0, 2**31 - 1))
    deterministic: bool = _run("equal runs give equal bits, at some cost in speed", False)
    checkpoint_minutes: float = _run(
        "minutes between checkpoints in an epoch", 10.0, range=Range(0, unit="(0: only epochs)")
    )
    schedule: str = _run(
        "f and g in turn, or at the same time on devices of their own",
        "alternating",
        choices=SCHEDULES,
    )
    devices_f: str | None = _run(
        "TensorFlow devices that share f's batches out, as in GPU:0,GPU:1", None
    )
    devices_g: str | None = _run("g's; in turn, f's where none are given", None)
    split_gpu_mb: int = _run(
        "devices of so many MiB each from one GPU", 0, range=Range(0, unit="(0: whole)")
    )

    def __post_init__(self):
        command.check(self)
        check(self)

    @property
    def eps_end(self) -> float:
        """The radius in pixels that training comes to."""
        return self.eps * self.eps_train_ratio

    @property
    def laid_out(self) -> str | None:
        """What is laid out for the number of epochs, so that no more of them can follow."""
        if self.lr_schedule == "cosine":
            return "a cosine schedule"
        return "a threshold on a ramp" if self.threshold == "ramp" else None

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks that are trained: a pair, but for the methods on intervals."""
        paired = self.pair and METHODS[self.method].pairs
        return ("f", "g") if paired else ("f",)


# Where a run is kept, read from and computed, and how often it is saved, says nothing of what it
# computes.
PLACES = (
    *("workdir", "data", "data_dir", "model_file"),
    *("devices_f", "devices_g", "split_gpu_mb", "checkpoint_minutes"),
)

FIELDS = command.names(Config)


def resolve(given: Mapping[str, Any]) -> Config:
    """The configuration of a run from the settings that were given, presets for the rest.

    Args:
      given: fields of `Config`; those that are absent or None come from the dataset's preset.

    Raises:
      SettingError: a setting out of range; one line that names it and what is allowed.
      TypeError: a name that is no field.
    """
    given = recipe(given) | {name: value for name, value in given.items() if value is not None}
    if "data" in given:
        if "dataset" in given:
            raise SettingError("dataset", "one of --dataset and --data", given["dataset"])
        given["dataset"] = Path(given["data"]).name
    material = Material(**{n: given[n] for n in command.names(Material) if n in given})
    info = material.info()
    values = _usual(material, info, METHODS.get(given.get("method") or "")) | given
    if "eps" not in values:
        known = ", ".join(presets.OF_DATASET)
        raise SettingError("eps", f"a radius in pixels of [0, 1] ({known} have a usual one)", None)
    # A small radius of the user's own must not fall below the preset's start.
    if "eps_start" not in given:
        values["eps_start"] = min(values["eps_start"], values["eps"])
    values.setdefault("workdir", str(default_workdir(given)))
    return Config(**as_kept(values))


def _usual(material: Material, info: Info, method: Method | None) -> dict[str, Any]:
    """What stands where nothing is given, by the examples and the method."""
    trained, tested = parts(info)
    values = presets.of_data(material.dataset, fitting(info))
    if method is not None and method.bound == "interval":
        values |= presets.BY_INTERVALS
    if material.model_file is not None:
        values = {name: value for name, value in values.items() if name not in ("model", "init")}
    most = 0 if tested is None else info.splits[tested]
    limits = {"limit_train": info.splits[trained], "limit_test": min(values["limit_test"], most)}
    return values | limits


def as_kept(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as `Config` has them: what flags and JSON have as lists are tuples there."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}


def recipe(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the preset that is named among `given`, if any."""
    name = given.get("preset")
    return {} if name is None else presets.NAMED[settings.one_of("preset", name, presets.NAMED)]


def default_workdir(given: Mapping[str, Any]) -> Path:
    """Where a run is kept that names no workdir: runs/PRESET, or else runs/DATASET-METHOD."""
    if given.get("preset") is not None:
        return Path("runs") / given["preset"]
    name = Path(given.get("data") or given.get("dataset") or presets.DEFAULT_DATASET)
    return Path("runs") / f"{name.stem}-{given.get('method') or Config.method}"


def differences(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """The settings among `given` that contradict a stored run, each as "name: stored / given"."""
    return [
        f"--{name} {stored.get(name)!r} there, {value!r} here"
        for name, value in as_kept(given).items()
        if value is not None and name not in PLACES and as_kept(stored).get(name) != value
    ]
