"""Methods against each other at a small budget, over seeds: `python -m benchmarks.study --out=DIR`.

Every run is `train.main` and then `eval.main` on the networks f and g, in processes of their own;
what a former call has finished in DIR is not done again. The table gives, for each network, the
mean of the errors over the seeds and their sample standard deviation.

* `exact`: Robustra against Wong and Kolter's bound alone, exact bounds, equal epochs.
* `interval`: the same with interval bounds of inner layers, and with half of the loss by intervals;
  Wong and Kolter's, whose step is cheaper, has epochs for as long as Robustra takes.
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

from benchmarks import options
from robustra_tf import settings

RADII = (0.1, 0.3)
COMMON = {"dataset": "mnist", "model": "mnist_small", "limit_train": 2000, "limit_test": 0}
NETWORKS = ("f", "g")
_SHORT = {"epochs": 30, "eps_warmup_epochs": 10}
_LONG = {"epochs": 50, "eps_warmup_epochs": 17}
_INTERVAL = {"inner": "interval"}
_HALF = {"inner": "interval", "interval_share": 0.5}


class Study(NamedTuple):
    """What is compared: flags of `train.main` by name, and the stages that judge the networks."""

    variants: Mapping[str, Mapping[str, Any]]
    stages: tuple[str, ...]


STUDIES = {
    "exact": Study({name: {"method": name} | _SHORT for name in ("robustra", "wong")}, ("lp",)),
    "interval": Study(
        {
            "robustra-interval": {"method": "robustra"} | _INTERVAL | _SHORT,
            "wong-interval": {"method": "wong"} | _INTERVAL | _LONG,
            "robustra-half": {"method": "robustra"} | _HALF | _SHORT,
            "wong-half": {"method": "wong"} | _HALF | _LONG,
        },
        ("ibp", "lp", "crown"),
    ),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """One study."""

    study: str = options.option("exact", "what is compared", tuple(STUDIES))
    seeds: int = options.option(3, "runs of every method and radius")
    workers: int = options.option(1, "runs at the same time, which share the cores")
    out: str | None = options.option(None, "folder of the runs; needed")
    data_dir: str | None = options.option(None, "TensorFlow Datasets' folder")

    def __post_init__(self):
        for name in ("seeds", "workers"):
            settings.within(name, getattr(self, name), 1)
        if self.out is None:
            raise settings.SettingError("out", "a folder", self.out)
        settings.output_directory("out", self.out)


class Run(NamedTuple):
    """A pair: the name of its variant, its radius in pixels and its seed."""

    variant: str
    eps: float
    seed: int

    @property
    def folder(self) -> str:
        """Its name within the study's folder."""
        return f"{self.variant}_{self.eps:g}_{self.seed}"


class Task(NamedTuple):
    """A program and its flags, the folder that it fills, and the file that it finishes with."""

    command: list[str]
    folder: Path
    finished: Path


def tasks(config: Config, run: Run) -> list[Task]:
    """What is to be run, in order."""
    study, root = STUDIES[config.study], Path(config.out) / run.folder
    given = COMMON | study.variants[run.variant] | {"eps": run.eps, "seed": run.seed}
    places = {"data_dir": config.data_dir} if config.data_dir else {}
    train = ["train.main", *_flags(given | places | {"workdir": root})]
    found = [Task(train, root, root / name / "saved_model.pb") for name in NETWORKS]
    stages = ",".join(("clean", *study.stages))
    for name in NETWORKS:
        out = root / f"eval_{name}"
        flags = {"saved_model": root / name, "stages": stages, "out": out} | places
        found.append(Task(["eval.main", *_flags(flags)], out, out / "results.json"))
    return found


def _flags(values: Mapping[str, Any]) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items()]


def perform(config: Config, run: Run) -> None:
    """Whatever of a run is not finished; what was interrupted goes on from where it was.

    Raises:
      RuntimeError: a command that fails, with the end of what it said.
    """
    threads = str(max(1, (os.cpu_count() or 1) // config.workers))
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    environment = os.environ | dict.fromkeys(names, threads)
    for task in tasks(config, run):
        if task.finished.exists():
            continue
        began = any((task.folder / name).exists() for name in ("config.json", "ledger.json"))
        line = [sys.executable, "-m", *task.command, *(["--resume"] if began else [])]
        done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(line)}: exit {done.returncode}: {done.stderr[-2000:]}")


def errors(config: Config, run: Run) -> list[dict[str, Any]]:
    """What a finished run came to, a row for each network: errors as fractions of the images."""
    root, rows = Path(config.out) / run.folder, []
    for name in NETWORKS:
        figures = json.loads((root / f"eval_{name}" / "results.json").read_text())
        found = {key: value for key, value in figures.items() if key.endswith("_error")}
        rows.append({**run._asdict(), "network": name, **found})
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Means and standard deviations over the seeds, in percent, as a table in Markdown."""
    numbers = [name for name in rows[0] if name.endswith("_error")]
    titles = [name.removesuffix("_error") for name in numbers]
    lines = [
        f"| variant | eps | network | {' | '.join(titles)} |",
        "| --- " * (len(titles) + 3) + "|",
    ]
    groups: dict[tuple, list] = {}
    for row in rows:
        groups.setdefault((row["variant"], row["eps"], row["network"]), []).append(row)
    for (variant, eps, network), group in groups.items():
        cells = [_spread([100 * row[name] for row in group]) for name in numbers]
        lines.append(f"| {variant} | {eps:g} | {network} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    mean = f"{statistics.fmean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def main(config: Config) -> None:
    """Do what is missing of the study, write `study.json`, and print the table."""
    variants = STUDIES[config.study].variants
    # Seed by seed, so that a study that is broken off compares what it has.
    runs = [Run(v, e, seed) for seed in range(config.seeds) for e in RADII for v in variants]
    root = Path(config.out)
    root.mkdir(exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(config.workers) as pool:
        waiting = {pool.submit(perform, config, run): run for run in runs}
        for done in concurrent.futures.as_completed(waiting):
            done.result()
            print(f"{waiting[done].folder} finished", file=sys.stderr, flush=True)
    order = sorted(runs, key=lambda run: (run.eps, list(variants).index(run.variant), run.seed))
    rows = [row for run in order for row in errors(config, run)]
    (root / "study.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main(options.parse(Config, __doc__))
