"""What an evaluation is: one frozen dataclass, checked before TensorFlow is imported."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from robustra_tf import data, vocabulary
from robustra_tf.cli import command, settings
from robustra_tf.cli.settings import Range, SettingError

from . import clustered
from .clustered import Clustered
from .subject import PATHS, TRAINED, Examined, PairSource

# In the order in which they run, whatever order they are asked for in.
STAGES = ("clean", "pgd", "ibp", "lp", "crown", "alpha", "milp")
# Bounds that take no account of rounding.
UNSOUND = ("crown", "alpha", "milp")
DTYPES = ("float32", "float64")
LOSSES = ("margin", "cross_entropy")
SOLVERS = ("auto", "batched", "branch", "highs", "gurobi")


_RESULTS = "Results"
_question, _bounds, _attack, _exact, _results = (
    functools.partial(command.setting, topic=topic)
    for topic in (
        "Question",
        "Bounds",
        "Attack (pgd)",
        "Complete verification (milp)",
        _RESULTS,
    )
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Examined, PairSource):
    """The settings of an evaluation, checked. `stages` always has `clean`, which others need.

    `box` is what every attacked pixel keeps to, or None; `eps_sweep` is increasing.
    """

    eps: float = _question("radius of the ball, in pixels of [0, 1]", otherwise=TRAINED)
    norm: str = _question(
        "norm of the ball", "linf", choices=vocabulary.NORMS, otherwise=f"{TRAINED}, or else linf"
    )
    box: tuple[float, float] | None = _question(
        "low,high that attacked pixels keep to, or none", otherwise="0,1"
    )
    properties: Path | None = command.setting(
        "instead of images: a file of VNN-LIB, a folder of them, or a list .csv of their paths",
        None,
        topic="Question",
    )
    stages: tuple[str, ...] = _question(
        "run one after the other on what is undecided", ("clean", "lp"), choices=STAGES
    )
    eps_sweep: tuple[float, ...] = _question(
        "further radii in pixels, for PGD and the LP bound: sweep.csv", ()
    )

    lp_box: bool = _bounds(
        "cut the ball to the box in the LP bound too: tighter than the paper's", False
    )
    sound: bool = _bounds(
        "subtract rounding from ibp and lp: true in real numbers and in float32", False
    )
    dtype: str = _bounds("of the bounds", choices=DTYPES, otherwise="float32, with --sound float64")
    batch_size: int = _bounds("examples at a time in lp", 20, range=Range(1))

    attack_loss: str = _attack("loss", "margin", choices=LOSSES)
    attack_steps: int = _attack("steps of each restart", 40, range=Range(1))
    attack_restarts: int = _attack("restarts", 2, range=Range(1))
    seed: int = _attack("of the random starts", 0, range=Range(0, 2**31 - 1))

    solver: str = _exact(
        "a search over the phases of ReLUs, many domains at a time, one by one, or by whichever "
        "is measured to be cheaper; or a mixed-integer solver",
        "auto",
        choices=SOLVERS,
    )
    memory_mb: int = _exact(
        "MiB for the domains of a search", vocabulary.DEFAULT_MEMORY_MB, range=Range(16)
    )
    time_limit: float = _exact(
        "for an example, over all its targets", 120.0, range=Range(0.0, unit="seconds")
    )
    workers: int = _exact("processes that decide examples", 1, range=Range(1))

    cluster: str | None = command.same(Clustered, "cluster")
    tls_ca_file: Path | None = command.same(Clustered, "tls_ca_file")
    tls_cert: Path | None = command.same(Clustered, "tls_cert")
    tls_key: Path | None = command.same(Clustered, "tls_key")
    insecure: bool = command.same(Clustered, "insecure")

    out: Path = command.setting(
        "folder of results.json, report.html and ledger.csv", topic=_RESULTS
    )
    proofs: Path | None = command.setting(
        "folder for proofs of all verdicts, which robustra check --run=OUT checks",
        None,
        topic=_RESULTS,
    )
    resume: bool = _results("go on with the evaluation in --out", False)
    overwrite: bool = _results("replace the results that are in --out", False)

    def __post_init__(self):
        super().__post_init__()
        _check(self)

    @property
    def about(self) -> str:
        """What the network is evaluated on, for people."""
        return f"{self.dataset} {self.split}"


FIELDS = command.names(Config)


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
    paths = (*PATHS, *clustered.PATHS, "proofs")
    given |= {name: Path(given[name]).expanduser() for name in paths if name in given}
    names = command.names(PairSource)
    source = PairSource(**{name: given[name] for name in names if name in given})
    trained = source.trained_for()
    if "data" in given:
        trained["dataset"] = given["data"].name
    values: dict[str, Any] = {"box": "0,1"} | trained | given
    values.setdefault("dtype", "float64" if values.get("sound") else "float32")
    if "eps" not in values:
        raise SettingError(
            "eps", "a radius in pixels of [0, 1] (only a saved model may know it)", None
        )
    if "out" not in values:
        raise SettingError("out", "a directory for the results", None)
    values["out"] = settings.output_directory("out", values["out"])
    values["box"] = _parse_box(values["box"])
    values["stages"] = parse_stages(values.get("stages", Config.stages))
    values["eps_sweep"] = _parse_radii("eps_sweep", values.get("eps_sweep", ()))
    config = Config(**values)
    split, info = config.checked()
    _check_examples(config, info)
    return dataclasses.replace(config, split=split)


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


def parse_stages(names: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """The stages of a command line in the order of the cascade, `clean` among them."""
    for name in names:
        settings.one_of("stages", name, STAGES)
    return tuple(name for name in STAGES if name in names or name == "clean")


def _parse_radii(flag: str, words: Iterable[str]) -> tuple[float, ...]:
    words = tuple(words)
    try:
        return tuple(sorted({float(word) for word in words}))
    except ValueError as error:
        raise SettingError(flag, "radii in pixels, such as 0.05,0.1", ",".join(words)) from error


def _check_examples(config: Config, info: data.Info) -> None:
    if config.weights is not None:
        fitting = [name for name, shape in vocabulary.MODEL_INPUTS.items() if shape == info.shape]
        settings.one_of("model", config.model, fitting)
        if not config.weights.is_file():
            raise SettingError("weights", "an existing .mat file", str(config.weights))
    settings.radius("eps", config.eps, config.norm, info.shape)
    for radius in config.eps_sweep:
        settings.radius("eps_sweep", radius, config.norm, info.shape)


class Shared(Protocol):
    """What evaluations of images and of properties are both set by."""

    @property
    def stages(self) -> tuple[str, ...]:
        """Those that are run."""
        ...

    @property
    def sound(self) -> bool:
        """Whether rounding is subtracted."""
        ...

    @property
    def dtype(self) -> str:
        """Of the bounds."""
        ...

    @property
    def resume(self) -> bool:
        """Whether an evaluation is gone on with."""
        ...

    @property
    def overwrite(self) -> bool:
        """Whether one is replaced."""
        ...


def check_together(given: Shared) -> None:
    """Refuses (`SettingError`) settings that do not go together."""
    if given.sound and given.dtype != "float64":
        raise SettingError("dtype", "float64 with --sound", given.dtype)
    unsound = [name for name in UNSOUND if name in given.stages]
    if given.sound and unsound:
        raise SettingError("stages", f"no {', '.join(UNSOUND)} with --sound", unsound[0])
    if given.resume and given.overwrite:
        raise SettingError("overwrite", "one of --resume and --overwrite", True)


def _check(config: Config) -> None:
    if config.pair is not None:
        for name, usual in (("eps_sweep", ()), ("attack_loss", "margin"), ("proofs", None)):
            if (value := getattr(config, name)) != usual:
                raise SettingError(name, "none with --pair", value)
    if config.lp_box and config.box is None:
        raise SettingError("lp_box", "false with --box=none", True)
    if config.lp_box and config.norm != "linf":
        raise SettingError("lp_box", f"false with --norm={config.norm}", True)
    check_together(config)
    clustered.check(config)
    if config.solver == "gurobi" and importlib.util.find_spec("gurobipy") is None:
        raise SettingError(
            "solver", "auto, batched, branch or highs where gurobipy is not installed", "gurobi"
        )
    if config.proofs is not None:
        _check_proofs(config, config.proofs)
    if "milp" in config.stages and config.norm == "l2":
        raise SettingError("stages", "no milp with --norm=l2, whose balls are not linear", "milp")


def _check_proofs(config: Config, folder: Path) -> None:
    if config.pair is not None:
        raise SettingError("proofs", "none with --pair", str(folder))
    if "milp" in config.stages and config.solver in ("highs", "gurobi"):
        raise SettingError("solver", "auto, batched or branch with --proofs", config.solver)
    if folder.is_file():
        raise SettingError("proofs", "a folder", str(folder))
