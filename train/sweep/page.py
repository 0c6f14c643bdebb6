"""What a sweep came to: a table and a figure."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from robustra_tf.storage.files import write_atomically

Rows = Sequence[Mapping[str, Any]]
TABLE, FIGURES = "trials.csv", ("pareto.png", "pareto.svg")


def write(folder: Path, rows: Rows) -> None:
    """Writes the table, and the figure once a trial is complete.

    Args:
      folder: of the sweep.
      rows: of every trial, as `study.rows` gives them.
    """
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_atomically(folder / TABLE, text.getvalue())
    drawn = front(rows)
    if drawn is not None:
        for name in FIGURES:
            drawn.savefig(folder / name)


def front(rows: Rows) -> Figure | None:
    """Clean against certified error of the trials that are complete; None where none is.

    Colours say what verification would cost. A step joins those that no other one beats in both
    errors; trials that are on the front for their cost alone are ringed too.
    """
    done = [row for row in rows if row["state"] == "complete"]
    if not done:
        return None
    figure = Figure(figsize=(6.5, 4.5), dpi=110, layout="constrained")
    axes = figure.subplots()
    points = [(100 * row["clean_error"], 100 * row["certified_error"]) for row in done]
    costs = [row["cost"] for row in done]
    drawn = axes.scatter(*zip(*points, strict=True), c=costs, cmap="viridis", zorder=2)
    figure.colorbar(drawn, label="unstable ReLUs of open images, mean over all images")
    ringed = [point for point, row in zip(points, done, strict=True) if row["best"]]
    if ringed:
        style = {"facecolors": "none", "edgecolors": "C3", "s": 90, "label": "not beaten"}
        axes.scatter(*zip(*ringed, strict=True), **style)
        axes.legend(fontsize=9)
    steps = lowest(points)
    axes.step(*zip(*steps, strict=True), where="post", color="C3", linewidth=1, zorder=1)
    for row, point in zip(done, points, strict=True):
        axes.annotate(str(row["trial"]), point, (4, 3), textcoords="offset points", fontsize=7)
    axes.set(xlabel="clean error in %, held-out images", ylabel="certified error in %")
    axes.grid(alpha=0.3)
    return figure


def lowest(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other one beats in both numbers, by the first one."""
    found: list[tuple[float, float]] = []
    for point in sorted(points):
        if not found or point[1] < found[-1][1]:
            found.append(point)
    return found
