"""Draws the curves of training.

`python -m eval.curves --out=FILE.png RUN...`, or `robustra curves`. Every RUN is a workdir of
`train.main`; what is drawn stands in its `config.json` and `history.csv`. One run gives Figures 3
and 4 of the paper, several a comparison.
"""

from __future__ import annotations

import csv
import dataclasses
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from robustra_tf.cli import command
from robustra_tf.cli.plots import MOTIVATION, curve, finish
from robustra_tf.cli.program import Program
from robustra_tf.storage.reading import read_json
from robustra_tf.training.methods import METHODS

PROGRAM = Program("eval.curves")
Rows = list[dict[str, str]]
NETWORKS = ("f", "g")
#: Which images further errors are of, by the columns' beginnings; a run has one of them.
_IMAGES = {"test": "test images", "validation": "held-out images"}
_BOUNDS = {"lp_error": "LP", "interval_error": "intervals"}
#: Columns of certified errors, with the images and the bounds that they are by; and of clean ones.
CERTIFIED = {
    f"{part}_{error}": (images, bound)
    for part, images in _IMAGES.items()
    for error, bound in _BOUNDS.items()
}
CLEAN = {f"{part}_clean_error": (images,) for part, images in _IMAGES.items()}
#: How the columns end that rest on random projections, in a run that trains on them.
ESTIMATE = "_estimate"
TIGHTNESS = ("infeasible", "tight", "loose")
_DASHES: dict[str, str] = dict(zip(NETWORKS, ("-", "--"), strict=True))
_COLORS: dict[str, str] = dict(zip(NETWORKS, ("C0", "C1"), strict=True))


class Run(NamedTuple):
    """A run of `train.main`: its method and, for each network, the rows of its history in order."""

    method: str
    networks: dict[str, Rows]

    def has(self, columns: Iterable[str]) -> bool:
        """Whether anything was recorded in one of `columns`."""
        return any(r.get(c) for rows in self.networks.values() for r in rows for c in columns)


def read(folder: Path) -> Run:
    """The run of a folder.

    Raises:
      ValueError: a folder that holds no run.
    """
    try:
        method = read_json(folder / "config.json")["method"]
        rows = _table(folder / "history.csv", ("epoch", "network"))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"RUN must be a workdir of train.main, got {folder}: {error}") from error
    return Run(method, {name: [r for r in rows if r["network"] == name] for name in NETWORKS})


def read_motivation(path: Path) -> Rows:
    """The rows of a motivation run's CSV, whose columns are `MOTIVATION`.

    Raises:
      ValueError: a file that is not there, lacks a column or holds what is not a number.
    """
    try:
        rows = _table(path, MOTIVATION)
        for number, row in enumerate(rows, start=2):
            for name in MOTIVATION:
                if not 0 <= float(row[name]) <= (1 if name != "epoch" else float("inf")):
                    raise ValueError(f"line {number}: {name}: expected a fraction, got {row[name]}")
    except (OSError, ValueError, TypeError) as error:
        wanted = f"--motivation: expected a CSV with columns {','.join(MOTIVATION)}"
        raise ValueError(f"{wanted}, got {path}: {error}") from error
    return rows


def _table(path: Path, columns: Sequence[str]) -> Rows:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if missing := set(columns) - set(reader.fieldnames or ()):
            raise ValueError(f"{path.name} has no column {', '.join(sorted(missing))}")
        try:
            return list(reader)
        except csv.Error as error:
            raise ValueError(f"{path.name}, line {reader.line_num + 1}: {error}") from error


def errors(run: Run) -> Figure:
    """Figure 3: robust and clean error of f and g per epoch, on training and on test images."""
    figure = Figure(figsize=(11, 4), dpi=110, layout="constrained")
    _errors(figure, run)
    return figure


def _errors(figure: Figure | SubFigure, run: Run) -> None:
    robust, clean = figure.subplots(1, 2)
    for name, rows in run.networks.items():
        color = _COLORS[name]
        for axes, train in ((robust, "robust_error"), (clean, "clean_error")):
            style = {"color": color, "label": f"{name}, training images"}
            curve(axes, rows, train, 100, **style)
            style["label"] += ", estimated"
            curve(axes, rows, f"{train}{ESTIMATE}", 100, **style)
        style = {"color": color, "linestyle": ":", "linewidth": 2}
        for axes, columns in ((robust, CERTIFIED), (clean, CLEAN)):
            for column, words in columns.items():
                curve(axes, rows, column, 100, label=", ".join((name, *words)), **style)
    robust.set(title="Robust error by bounds (on training images the method's own)")
    robust.title.set_fontsize(10.5)
    clean.set(title="Clean error")
    clean.title.set_fontsize(10.5)
    for axes in (robust, clean):
        axes.set(ylabel="error in %", ylim=(0, None))
    finish((robust, clean))


def reference(run: Run) -> Figure:
    """Figure 4: the threshold t0 and how tight the reference's constraint is, per epoch."""
    figure = Figure(figsize=(13, 4), dpi=110, layout="constrained")
    _reference(figure, run)
    return figure


def _reference(figure: Figure | SubFigure, run: Run) -> None:
    threshold, *panels = figure.subplots(1, 1 + len(NETWORKS))
    for name, rows in run.networks.items():
        curve(threshold, rows, "t0", 1, color=_COLORS[name], label=f"training of {name}")
    threshold.set(
        title="Threshold t of the reference space", ylabel="mean t0 (difference of logits)"
    )
    for axes, (name, rows) in zip(panels, run.networks.items(), strict=True):
        _tightness(axes, name, rows)
    finish((threshold, *panels))


def _has_reference(run: Run) -> bool:
    method = METHODS.get(run.method)
    return method is not None and method.needs_reference


def single(run: Run) -> Figure:
    """Figure 3 and, of a pair with references, Figure 4 below it."""
    paired = _has_reference(run)
    figure = Figure(figsize=(13, 4 * (1 + paired)), dpi=110, layout="constrained")
    above, *below = figure.subfigures(1 + paired, 1, squeeze=False)[:, 0]
    _errors(above, run)
    for part in below:
        _reference(part, run)
    return figure


def _tightness(axes: Axes, name: str, rows: Rows) -> None:
    for column in TIGHTNESS:
        curve(axes, rows, column, 100, label=column)
        curve(axes, rows, f"{column}{ESTIMATE}", 100, label=f"{column}, estimated")
    axes.set(title=f"Constraint at t = 0, training of {name}", ylabel="% of targets", ylim=(0, 102))


def compare(runs: Sequence[Run]) -> Figure:
    """The errors of every run, and the threshold and the tightness of the first pair."""
    figure = Figure(figsize=(13, 4), dpi=110, layout="constrained")
    certified, threshold, tightness = figure.subplots(1, 3)
    for position, (method, networks) in enumerate(runs):
        for name, rows in networks.items():
            style = {"color": f"C{position % 10}", "linestyle": _DASHES[name]}
            for column, (_, bound) in CERTIFIED.items():
                curve(certified, rows, column, 100, label=f"{method}, {name}, {bound}", **style)
    certified.set(title="Certified error beside training", ylabel="%", ylim=(0, 102))
    pairs: list[Mapping[str, Rows]] = [run.networks for run in runs if _has_reference(run)]
    for name, rows in (pairs[0] if pairs else {}).items():
        curve(threshold, rows, "t0", 1, linestyle=_DASHES[name], color="C0", label=name)
    threshold.set(title="Threshold t of the reference space", ylabel="mean t0")
    _tightness(tightness, NETWORKS[0], pairs[0][NETWORKS[0]] if pairs else [])
    finish((certified, threshold, tightness))
    return figure


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curves:
    """The command's settings."""

    runs: tuple[Path, ...] = command.setting("a workdir of train.main", operands="RUN")
    out: Path = command.setting("the picture, FILE.png")


def main() -> None:
    """Reads the command line."""
    given = PROGRAM.read(Curves, __doc__)
    try:
        runs = [read(folder) for folder in given.runs]
        figure = single(*runs) if len(runs) == 1 else compare(runs)
        figure.savefig(given.out)
    except (ValueError, OSError) as error:
        sys.exit(PROGRAM.refuse(error))


if __name__ == "__main__":
    main()
