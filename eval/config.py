"""What an evaluation is: one frozen dataclass, checked before TensorFlow is imported."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from robustra_tf import data, description, settings
from robustra_tf.settings import SettingError

# In the order in which they run, whatever order they are asked for in.
STAGES = ("clean", "pgd", "ibp", "lp", "crown", "alpha", "milp")
# Bounds that take no account of rounding.
UNSOUND = ("crown", "alpha", "milp")
DTYPES = ("float32", "float64")
LOSSES = ("margin", "cross_entropy")
SOLVERS = ("branch", "highs", "gurobi")


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of an evaluation, checked. `eps` is a radius in pixels of [0, 1].

    Attributes:
      saved_model: a directory that `robustra_tf.export.save` wrote, or None.
      weights: a .mat file of published weights, or None; exactly one of the two is given.
      model: the architecture of `weights`.
      normalised: whether the network in `weights` works on normalised inputs.
      box: what every attacked pixel keeps to, or None.
      lp_box: whether the LP bound is over the ball cut to `box` too, not the ball alone.
      stages: of `STAGES`, always with `clean`, whose predictions the others need.
      first: position of the first example in the split.
      sound: whether bounds are sound: for real numbers and for the float32 forward pass.
      limit: so many examples from `first` on, or None for all.
      eps_sweep: further radii, increasing, for which PGD and the LP bound are run.
      time_limit: seconds that `milp` may take for an example, over all targets.
      solver: of `SOLVERS`: the search over ReLU phases, or a mixed-integer solver.
      workers: processes in which `milp` decides examples.
    """

    saved_model: Path | None
    weights: Path | None
    model: str | None
    normalised: bool
    dataset: str
    data_dir: str | None
    split: str
    first: int
    limit: int | None
    eps: float
    eps_sweep: tuple[float, ...]
    norm: str
    box: tuple[float, float] | None
    lp_box: bool
    stages: tuple[str, ...]
    batch_size: int
    dtype: str
    sound: bool
    attack_loss: str
    attack_steps: int
    attack_restarts: int
    seed: int
    time_limit: float
    solver: str
    workers: int
    out: Path
    resume: bool

    def __post_init__(self):
        _check(self)


FIELDS = tuple(field.name for field in dataclasses.fields(Config))
DEFAULTS: dict[str, Any] = {
    "saved_model": None,
    "weights": None,
    "model": None,
    "normalised": False,
    "data_dir": None,
    "split": "test",
    "first": 0,
    "limit": None,
    "eps_sweep": (),
    "norm": "linf",
    "box": "0,1",
    "lp_box": False,
    "stages": ("clean", "lp"),
    "batch_size": 20,
    "sound": False,
    "attack_loss": "margin",
    "attack_steps": 40,
    "attack_restarts": 2,
    "seed": 0,
    "time_limit": 120.0,
    "solver": "branch",
    "workers": 1,
    "resume": False,
}
# What a saved model is evaluated for by default: what it says that it was trained for.
_TRAINED_FOR = ("dataset", "eps", "norm")


def resolve(given: Mapping[str, Any]) -> Config:
    """The configuration of an evaluation from the settings that were given, defaults for the rest.

    Args:
      given: fields of `Config` as they stand on a command line: paths and the box as text, `stages`
        as a list; absent or None where not given.

    Raises:
      SettingError: a setting missing or out of range; one line that names it and what is allowed.
      FileNotFoundError, ValueError: a saved model that is not there or cannot be read back.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if ("saved_model" in given) == ("weights" in given):
        source = "both" if "weights" in given else "neither"
        raise SettingError("saved_model", "either --saved_model or --weights with --model", source)
    trained = _settings_of(given["saved_model"]) if "saved_model" in given else {}
    values = DEFAULTS | trained | given
    values.setdefault("dtype", "float64" if values["sound"] else "float32")
    for name in ("dataset", "eps"):
        if name not in values:
            raise SettingError(name, _missing(name), None)
    if "out" not in values:
        raise SettingError("out", "a directory for the results", None)
    for name in ("saved_model", "weights"):
        if values[name] is not None:
            values[name] = Path(values[name]).expanduser()
    values["out"] = settings.output_directory("out", values["out"])
    values["box"] = _parse_box(values["box"])
    values["stages"] = _parse_stages(values["stages"])
    values["eps_sweep"] = _parse_radii("eps_sweep", values["eps_sweep"])
    return Config(**values)


def _settings_of(directory: str) -> dict[str, Any]:
    stored = description.read_settings(Path(directory).expanduser())
    return {name: stored[name] for name in _TRAINED_FOR if stored.get(name) is not None}


def _missing(name: str) -> str:
    allowed = ", ".join(data.NAMES) if name == "dataset" else "a radius in pixels of [0, 1]"
    return f"{allowed} (only a saved model may know it)"


def _parse_box(text: str) -> tuple[float, float] | None:
    if text == "none":
        return None
    try:
        low, high = (float(word) for word in text.split(","))
    except ValueError:
        low, high = 0.0, 0.0
    if not low <= 0 < 1 <= high:
        raise SettingError("box", "none, or low,high that contains 0,1", text)
    return low, high


def _parse_stages(names: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        settings.one_of("stages", name, STAGES)
    return tuple(name for name in STAGES if name in names or name == "clean")


def _parse_radii(flag: str, words: Iterable[str]) -> tuple[float, ...]:
    words = tuple(words)
    try:
        return tuple(sorted({float(word) for word in words}))
    except ValueError as error:
        raise SettingError(flag, "radii in pixels, such as 0.05,0.1", ",".join(words)) from error


def _check(config: Config) -> None:
    if config.saved_model is not None and (config.model is not None or config.normalised):
        flag = "model" if config.model is not None else "normalised"
        raise SettingError(flag, "none with --saved_model, which knows", getattr(config, flag))
    settings.one_of("dataset", config.dataset, data.NAMES)
    info = data.INFO[config.dataset]
    if config.weights is not None:
        settings.one_of("model", config.model, settings.MODEL_INPUTS)
        fitting = [name for name, shape in settings.MODEL_INPUTS.items() if shape == info.shape]
        settings.one_of("model", config.model, fitting)
        if not config.weights.is_file():
            raise SettingError("weights", "an existing .mat file", str(config.weights))
    settings.one_of("split", config.split, data.SPLITS)
    size = getattr(info, config.split)
    settings.within("first", config.first, 0, size - 1)
    if config.limit is not None:
        settings.within("limit", config.limit, 1, size - config.first)
    settings.one_of("norm", config.norm, settings.NORMS)
    settings.radius("eps", config.eps, config.norm, info.shape)
    for radius in config.eps_sweep:
        settings.radius("eps_sweep", radius, config.norm, info.shape)
    if config.lp_box and config.box is None:
        raise SettingError("lp_box", "false with --box=none", True)
    if config.lp_box and config.norm != "linf":
        raise SettingError("lp_box", f"false with --norm={config.norm}", True)
    settings.within("batch_size", config.batch_size, 1)
    settings.one_of("dtype", config.dtype, DTYPES)
    if config.sound and config.dtype != "float64":
        raise SettingError("dtype", "float64 with --sound", config.dtype)
    unsound = [name for name in UNSOUND if name in config.stages]
    if config.sound and unsound:
        raise SettingError("stages", f"no {', '.join(UNSOUND)} with --sound", unsound[0])
    settings.one_of("attack_loss", config.attack_loss, LOSSES)
    settings.within("attack_steps", config.attack_steps, 1)
    settings.within("attack_restarts", config.attack_restarts, 1)
    settings.within("seed", config.seed, 0, 2**31 - 1)
    settings.within("time_limit", config.time_limit, 0.0, unit="seconds")
    settings.one_of("solver", config.solver, SOLVERS)
    if config.solver == "gurobi" and importlib.util.find_spec("gurobipy") is None:
        raise SettingError("solver", "branch or highs where gurobipy is not installed", "gurobi")
    settings.within("workers", config.workers, 1)
    if "milp" in config.stages and config.norm == "l2":
        raise SettingError("stages", "no milp with --norm=l2, whose balls are not linear", "milp")
