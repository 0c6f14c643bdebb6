"""The page of an evaluation of a pair: its table, its risk against coverage, its witnesses."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from robustra_tf.storage.files import write_atomically

from . import coverage, figures, pair_results, results, witnesses
from .ledger import Stored, read
from .page import FOLDER, NAME
from .pair_rows import NAMES, PairRow
from .rows import Status

_TEMPLATE = "pair.html"
_DRAWN = ("coverage", "falsified")


def build(out: Path) -> Path:
    """Writes `report.html` and `figures/*.png` for the finished evaluation in a directory.

    Returns:
      The page's path.

    Raises:
      ValueError: no finished evaluation there, or a damaged file.
    """
    from .report import Picture, environment, picture

    stored, found = read(out, PairRow), results.read(out)
    if not stored.finished:
        raise ValueError(f"{out}: the evaluation is not finished; eval.main --resume goes on")
    rows, drawn = list(stored.rows.values()), dict[str, Picture | None](dict.fromkeys(_DRAWN))
    if curves := _curves(found, rows):
        alt = "Share of images not certified against the share that is answered"
        drawn["coverage"] = picture("coverage", alt, plotted(curves))
    shown, scale = _witnesses(out, stored), None
    if shown:
        scale = figures.perturbation_scale(shown, found["eps"], found["norm"])
        alt = "Images, perturbations, and the points that both networks answer wrongly"
        drawn["falsified"] = picture("falsified", alt, figures.falsified(shown, scale))
    content = {
        "figures": found,
        "settings": stored.identity,
        "words": pair_results.WORDS,
        "ends": pair_results.ENDS,
        "counts": {
            question: collections.Counter(getattr(row, question).value for row in rows)
            for question in ("silent", "abstains")
        },
        "ranges": results.ranges(stored.rows),
        "scale": scale,
        **drawn,
    }
    folder = out / FOLDER
    folder.mkdir(exist_ok=True)
    for name, each in drawn.items():
        if each is None:
            (folder / f"{name}.png").unlink(missing_ok=True)
        else:
            write_atomically(folder / f"{name}.png", each.png)
    path = out / NAME
    write_atomically(path, environment().get_template(_TEMPLATE).render(content))
    return path


def _curves(found: Mapping[str, Any], rows: Iterable[PairRow]) -> dict[str, coverage.Curve]:
    """By the words for each classifier; none where no bound was asked for."""
    rows = list(rows)
    if "certified_error" not in found["classifiers"]["pair"]:
        return {}
    return {
        pair_results.WORDS[name]: coverage.curve(
            np.array([row.lead(name) for row in rows]),
            np.array([row.margin(name) for row in rows]),
        )
        for name in NAMES
    }


def plotted(curves: Mapping[str, coverage.Curve]) -> Figure:
    """Certified risk against coverage, a curve for each classifier by name, in percent."""
    figure = Figure(figsize=(7, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    for number, (name, each) in enumerate(curves.items()):
        style = {"color": f"C{number}", "linewidth": 2.0 if number == 0 else 1.3}
        axes.plot(100 * each.coverage, 100 * each.risk, label=name, **style)
        axes.plot(100 * each.coverage[:1], 100 * each.risk[:1], "o", color=f"C{number}")
    axes.set(xlabel="answered, % of the images", ylabel="not certified, % of the images")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _witnesses(out: Path, stored: Stored[PairRow]) -> list[witnesses.Witness]:
    rows = stored.rows
    return [
        witness
        for witness in witnesses.read(out, stored.identity)
        if witness.index in rows and rows[witness.index].silent is Status.FALSIFIED
    ][: figures.COLUMNS]
