"""Methods against each other at a small budget, over seeds: `python -m benchmarks.study --out=DIR`.

Every run is `train.main` and then `eval.main` on the networks trained, in processes of their own;
what a former call has finished in DIR is not done again. The table gives, for each network, the
mean of the errors over the seeds and their sample standard deviation, and the minutes of training.

* `exact`: Robustra against Wong and Kolter's bound alone, exact bounds, equal epochs.
* `interval`: the same with interval bounds of inner layers, and with half of the loss by intervals;
  Wong and Kolter's, whose step is cheaper, has epochs for as long as Robustra takes.
* `cifar10`: Wong and Kolter's exact bound, Robustra's, and the recipes `cifar10_2_best` and
  `cifar10_8_best`, with epochs for about an hour on one core by the speed of their first steps.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from robustra_tf.cli import command, settings
from robustra_tf.cli.settings import Range
from train import config as train_config
from train import presets

_MNIST = {"dataset": "mnist", "model": "mnist_small", "limit_train": 2000, "limit_test": 0}
_CIFAR10 = {"dataset": "cifar10", "model": "cifar10_small", "limit_test": 0}
_SHORT = {"epochs": 30, "eps_warmup_epochs": 10}
_LONG = {"epochs": 50, "eps_warmup_epochs": 17}
_INTERVAL = {"inner": "interval"}
# From the paper's initial weights, half of the loss by intervals learns nothing.
_HALF = presets.BY_INTERVALS | {"inner": "interval", "interval_share": 0.5, "batch_size": 50}
# What the results call the errors of stages; of the complete one, what it could not exclude.
_ERRORS = ("_error", "_error_upper")
_HOUR = {
    "optimizer": "adam",
    "lr": 1e-3,
    "weight_decay": 0.0,
    "ramp": "step",
    "lr_schedule": "cosine",
}


class Study(NamedTuple):
    """What is compared.

    Attributes:
      common: flags of `train.main` for every run, by name.
      variants: further ones by the name of the variant; `{}` in a text stands for the radius's
        name.
      radii: in pixels, by name.
      evaluation: flags of `eval.main`.
    """

    common: Mapping[str, Any]
    variants: Mapping[str, Mapping[str, Any]]
    radii: Mapping[str, float]
    evaluation: Mapping[str, Any]


STUDIES = {
    "exact": Study(
        _MNIST,
        {name: {"method": name} | _SHORT for name in ("robustra", "wong")},
        {"0.1": 0.1, "0.3": 0.3},
        {"stages": "clean,lp"},
    ),
    "interval": Study(
        _MNIST,
        {
            "robustra-interval": {"method": "robustra"} | _INTERVAL | _SHORT,
            "wong-interval": {"method": "wong"} | _INTERVAL | _LONG,
            "robustra-half": {"method": "robustra"} | _SHORT | _HALF | {"eps_warmup_epochs": 15},
            "wong-half": {"method": "wong"} | _LONG | _HALF | {"eps_warmup_epochs": 25},
        },
        {"0.1": 0.1, "0.3": 0.3},
        {"stages": "clean,ibp,lp,crown"},
    ),
    "cifar10": Study(
        _CIFAR10,
        {
            "wong": {"method": "wong", "pair": False, "epochs": 10, "eps_warmup_epochs": 4} | _HOUR,
            "robustra": {"method": "robustra", "epochs": 3, "eps_warmup_epochs": 1} | _HOUR,
            "best": {"preset": "cifar10_{}_best"},
        },
        {"2": 2 / 255, "8": 8 / 255},
        {"stages": "clean,pgd,ibp,lp,crown,alpha,milp", "lp_box": True, "time_limit": 2},
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One study."""

    study: str = command.setting("what is compared", "exact", choices=tuple(STUDIES))
    seeds: int = command.setting("runs of every method and radius", 3, range=Range(1))
    workers: int = command.setting(
        "runs at the same time, which share the cores", 1, range=Range(1)
    )
    out: str | None = command.setting("folder of the runs; required", None)
    data_dir: str | None = command.setting("TensorFlow Datasets' folder", None)

    def __post_init__(self):
        command.check(self)
        if self.out is None:
            raise settings.SettingError("out", "a folder", self.out)
        settings.output_directory("out", self.out)


class Run(NamedTuple):
    """What trains a network or a pair: its variant, the name of its radius and its seed."""

    variant: str
    radius: str
    seed: int

    @property
    def folder(self) -> str:
        """Its name within the study's folder."""
        return "_".join(map(str, self))

    def given(self, study: Study) -> dict[str, Any]:
        """Its settings as far as they are given."""
        named = {
            name: value.format(self.radius) if isinstance(value, str) else value
            for name, value in study.variants[self.variant].items()
        }
        return {**study.common, **named, "eps": study.radii[self.radius], "seed": self.seed}

    def resolved(self, study: Study) -> train_config.Config:
        """All of its settings, but for where it is kept."""
        return train_config.resolve(self.given(study))


class Task(NamedTuple):
    """A program and its flags, the folder that it fills, and the file that it finishes with."""

    command: list[str]
    folder: Path
    finished: Path


def tasks(config: Config, run: Run) -> list[Task]:
    """What is to be run, in order."""
    study, root = STUDIES[config.study], Path(config.out) / run.folder
    places = {"data_dir": config.data_dir} if config.data_dir else {}
    train = ["train.main", *as_flags(run.given(study) | places | {"workdir": root})]
    networks = run.resolved(study).networks
    found = [Task(train, root, root / name / "saved_model.pb") for name in networks]
    for name in networks:
        out = root / f"eval_{name}"
        flags = {"saved_model": root / name, **study.evaluation, "out": out} | places
        found.append(Task(["eval.main", *as_flags(flags)], out, out / "results.json"))
    return found


def as_flags(values: Mapping[str, Any]) -> list[str]:
    """Settings as arguments of a program."""
    return [f"--{name}={value}" for name, value in values.items()]


def perform(ordered: Sequence[Task], workers: int) -> None:
    """Whatever of them is not finished; what was interrupted goes on from where it was.

    Args:
      ordered: the tasks.
      workers: how many share the cores.

    Raises:
      RuntimeError: a command that fails, with the end of what it said.
    """
    threads = str(max(1, len(os.sched_getaffinity(0)) // workers))
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    environment = os.environ | dict.fromkeys(names, threads)
    for task in ordered:
        if task.finished.exists():
            continue
        began = any((task.folder / name).exists() for name in ("config.json", "ledger.json"))
        line = [sys.executable, "-m", *task.command, *(["--resume"] if began else [])]
        done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(line)}: exit {done.returncode}: {done.stderr[-2000:]}")


def figures(config: Config, run: Run) -> list[dict[str, Any]]:
    """What a finished run came to, a row for each network.

    Errors are fractions of the images; `minutes` are those of the whole training, which the two
    networks of a pair share.
    """
    root, rows = Path(config.out) / run.folder, []
    settled = run.resolved(STUDIES[config.study])
    seconds = seconds_of(root, settled)
    for name in settled.networks:
        results = json.loads((root / f"eval_{name}" / "results.json").read_text())
        found = {key: value for key, value in results.items() if key.endswith(_ERRORS)}
        rows.append({**run._asdict(), "network": name, **found, "minutes": seconds / 60})
    return rows


def seconds_of(root: Path, settled: train_config.Config) -> float:
    """What the epochs of a run took, by the speeds that it has written for TensorBoard."""
    speeds = []
    for name in settled.networks:
        events = EventAccumulator(str(root / "events" / name), {"tensors": 0})
        events.Reload()
        records = events.Tensors("speed/examples_per_second")
        speeds += [float(tensor_util.make_ndarray(record.tensor_proto)) for record in records]
    return sum(settled.limit_train / speed for speed in speeds)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Means and standard deviations over the seeds, in percent, as a table in Markdown."""
    numbers = [name for name in rows[0] if name.endswith(_ERRORS)]
    titles = [name.partition("_")[0] for name in numbers]
    lines = [
        f"| variant | radius | network | {' | '.join(titles)} | minutes |",
        "| --- " * (len(titles) + 4) + "|",
    ]
    groups: dict[tuple, list] = {}
    for row in rows:
        groups.setdefault((row["variant"], row["radius"], row["network"]), []).append(row)
    for names, group in groups.items():
        cells = [spread([100 * row[name] for row in group]) for name in numbers]
        cells.append(f"{statistics.fmean(row['minutes'] for row in group):.1f}")
        lines.append(f"| {' | '.join((*names, *cells))} |")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """The mean and the sample standard deviation as text."""
    mean = f"{statistics.fmean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def main(config: Config) -> None:
    """Do what is missing of the study, write `study.json`, and print the table."""
    study = STUDIES[config.study]
    ordered = [
        Run(variant, radius, seed)
        for radius in study.radii
        for variant in study.variants
        for seed in range(config.seeds)
    ]
    # Seed by seed, so that a study that is broken off compares what it has.
    runs = sorted(ordered, key=lambda run: run.seed)
    root = Path(config.out)
    root.mkdir(exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(config.workers) as pool:
        waiting = {pool.submit(perform, tasks(config, run), config.workers): run for run in runs}
        for done in concurrent.futures.as_completed(waiting):
            done.result()
            print(f"{waiting[done].folder} finished", file=sys.stderr, flush=True)
    rows = [row for run in ordered for row in figures(config, run)]
    (root / "study.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main(command.read(Config, "benchmarks.study", __doc__))
