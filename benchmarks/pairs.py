"""Pairs against their parts at equal time, over seeds: `python -m benchmarks.pairs --out=DIR`.

A pair is one run of `train.main` that trains f and g, or two runs of one network each, from seeds
of their own; `eval.pair_study` then says what the pair, each network, their averaged logits and
each of these with a threshold come to. All in processes of their own; what a former call has
finished in DIR is not done again. The table gives the mean over the seeds and the sample standard
deviation of every column, and the minutes of training of the two networks together.

Epochs are such that all pairs of a study train for about as long on one core.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import statistics
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.study import Task, as_flags, perform, seconds_of, spread
from eval import pair_study
from robustra_tf.cli import command, settings
from robustra_tf.cli.settings import Range
from train import config as train_config
from train import presets

#: Of the second network of a pair that is trained in two runs.
_OTHER_SEED = 1000
_ALL = {"limit_test": 0, "batch_norm": True, "lr": 1e-3, "optimizer": "adam"}
_MNIST = {"dataset": "mnist", "model": "mnist_small", "limit_train": 10000} | _ALL
# What methods on intervals have by themselves.
_LIKE_THEM = {
    name: presets.BY_INTERVALS[name]
    for name in ("ramp", "init", "lr_schedule", "batch_size", "eps_start")
}
_REFERENCE = {"method": "robustra", "inner": "interval", "agreement_weight": 1.0} | _LIKE_THEM


class Variant(NamedTuple):
    """How a pair is trained.

    Attributes:
      flags: of `train.main`, by name.
      runs: 1 for a run of f and g, 2 for two of one network each.
    """

    flags: Mapping[str, Any]
    runs: int = 1


class Study(NamedTuple):
    """What is compared.

    Attributes:
      common: flags of `train.main` for every run, by name.
      variants: of pairs, by name.
      certified: flags of `eval.pair_study`.
    """

    common: Mapping[str, Any]
    variants: Mapping[str, Variant]
    certified: Mapping[str, Any]


def _thresholds(epochs: int, warmup: int, **others: Any) -> dict[str, Variant]:
    flags = _REFERENCE | {"epochs": epochs, "eps_warmup_epochs": warmup} | others
    return {name: Variant(flags | {"threshold": name}) for name in ("t0", "zero", "ramp")}


STUDIES = {
    "mnist_0.3": Study(
        _MNIST | {"eps": 0.3},
        {
            **_thresholds(12, 5, interval_share=1.0),
            "wong": Variant(
                {"method": "wong", "inner": "interval", "interval_share": 0.5, "epochs": 15}
                | {"eps_warmup_epochs": 6}
                | _LIKE_THEM
            ),
            "ibp": Variant(
                {"method": "ibp", "clean_share": 0.5, "epochs": 58, "eps_warmup_epochs": 20}, 2
            ),
        },
        {"eps": 0.3, "dataset": "mnist", "methods": "interval,crown", "limit": 10000},
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One study."""

    study: str = command.setting("what is compared", "mnist_0.3", choices=tuple(STUDIES))
    seeds: int = command.setting("pairs of every variant", 3, range=Range(1))
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

    @property
    def places(self) -> dict[str, str]:
        """Where the data are, as a flag."""
        return {"data_dir": self.data_dir} if self.data_dir else {}


class Pair(NamedTuple):
    """One pair that is trained: its variant and its seed."""

    variant: str
    seed: int

    def runs(self, config: Config) -> Iterator[tuple[Path, dict[str, Any]]]:
        """The folders of its runs with their settings as far as they are given."""
        study = STUDIES[config.study]
        chosen = study.variants[self.variant]
        for number in range(chosen.runs):
            seed = self.seed + number * _OTHER_SEED
            flags = {**study.common, **chosen.flags, "seed": seed}
            yield Path(config.out or "") / f"{self.variant}_{seed}", flags

    def tasks(self, config: Config) -> list[Task]:
        """What is to be run, in order."""
        found, parts = [], []
        for folder, flags in self.runs(config):
            line = ["train.main", *as_flags(flags | config.places | {"workdir": folder})]
            networks = train_config.resolve(flags).networks
            found += [Task(line, folder, folder / name / "saved_model.pb") for name in networks]
            parts += [str(folder / name) for name in networks]
        out = self.table(config)
        flags = {**STUDIES[config.study].certified, "out": out.parent} | config.places
        line = ["eval.pair_study", f"{self.variant}={','.join(parts)}", *as_flags(flags)]
        return [*found, Task(line, out.parent, out)]

    def table(self, config: Config) -> Path:
        """The file that is written when it is done."""
        return Path(config.out or "") / f"study_{self.variant}_{self.seed}" / "table.md"

    def figures(self, config: Config) -> list[dict[str, Any]]:
        """What it came to: a row for each classifier, shares of the images."""
        (found,) = self.table(config).parent.glob(f"{self.variant}-*.json")
        runs = self.runs(config)
        seconds = sum(seconds_of(folder, train_config.resolve(flags)) for folder, flags in runs)
        rows = json.loads(found.read_text(encoding="utf-8"))["rows"]
        about = {**self._asdict(), "minutes": seconds / 60}
        return [{**about, "classifier": name, **shares} for name, shares in rows.items()]


def table(rows: list[dict[str, Any]]) -> str:
    """Means and standard deviations over the seeds, in percent, as a table in Markdown."""
    head = ("pair", "classifier", *pair_study.HEAD[2:], "minutes")
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["variant"], row["classifier"]), []).append(row)
    for names, group in groups.items():
        cells = [spread([100 * row[column] for row in group]) for column in pair_study.COLUMNS]
        cells.append(f"{statistics.fmean(row['minutes'] for row in group):.1f}")
        lines.append(f"| {' | '.join((*names, *cells))} |")
    return "\n".join(lines)


def main(config: Config) -> None:
    """Do what is missing of the study, write `pairs.json`, and print the table."""
    variants, root = STUDIES[config.study].variants, Path(config.out or "")
    # Seed by seed, so that a study that is broken off compares what it has.
    pairs = [Pair(name, seed) for seed in range(config.seeds) for name in variants]
    root.mkdir(exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(config.workers) as pool:
        waiting = {pool.submit(perform, pair.tasks(config), config.workers): pair for pair in pairs}
        for done in concurrent.futures.as_completed(waiting):
            done.result()
            print(f"{'_'.join(map(str, waiting[done]))} finished", file=sys.stderr, flush=True)
    ordered = sorted(pairs, key=lambda pair: list(variants).index(pair.variant))
    rows = [row for pair in ordered for row in pair.figures(config)]
    (root / "pairs.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main(command.read(Config, "benchmarks.pairs", __doc__))
