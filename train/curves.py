"""Draws the training curves of finished runs: `python -m train.curves --out=FILE.png RUN...`.

Every RUN is a workdir of `train.main`; what is drawn stands in its `config.json` and `history.csv`.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

Run = tuple[str, dict[str, list[dict[str, str]]]]
STYLES = {"f": "-", "g": "--"}


def read(folder: Path) -> Run:
    """The method of a run and, for each network, its rows of the history in order.

    Raises:
      ValueError: a folder that holds no run.
    """
    try:
        method = json.loads((folder / "config.json").read_text())["method"]
        with (folder / "history.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"RUN must be a workdir of train.main, got {folder}: {error}") from error
    return method, {name: [r for r in rows if r["network"] == name] for name in STYLES}


def _curve(axes: Axes, rows: list[dict[str, str]], column: str, scale: float, **style) -> None:
    points = [(int(r["epoch"]), scale * float(r[column])) for r in rows if r.get(column)]
    if points:
        axes.plot(*zip(*points, strict=True), **style)


def draw(runs: list[Run], out: Path) -> None:
    """Write one picture: errors of every run, the threshold and the tightness of the first pair."""
    figure, (errors, threshold, tightness) = plt.subplots(1, 3, figsize=(13, 4), dpi=110)
    for color, (method, networks) in zip(plt.cm.tab10.colors, runs, strict=False):
        for name, rows in networks.items():
            style = {"color": color, "linestyle": STYLES[name], "label": f"{method}, {name}"}
            _curve(errors, rows, "test_lp_error", 100, **style)
    errors.set(title="Certified (LP) error on test images", ylabel="%", ylim=(0, 102))
    pairs = [networks for method, networks in runs if method == "robustra"]
    for name, rows in (pairs[0] if pairs else {}).items():
        _curve(threshold, rows, "t0", 1, linestyle=STYLES[name], color="C0", label=name)
    threshold.set(title="Threshold t of the reference space", ylabel="mean t0")
    rows = pairs[0]["f"] if pairs else []
    for column in ("infeasible", "tight", "loose"):
        _curve(tightness, rows, column, 100, label=column)
    tightness.set(title="Constraint at t = 0, training of f", ylabel="% of targets", ylim=(0, 102))
    for axes in (errors, threshold, tightness):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(out)
    plt.close(figure)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="train.curves", description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--out", type=Path, required=True, help="the picture, FILE.png")
    arguments = parser.parse_args()
    try:
        draw([read(folder) for folder in arguments.runs], arguments.out)
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
