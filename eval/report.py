"""What an evaluation found, as figures: results.json and the table that is printed."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from eval.config import Config
from eval.ledger import Row, Status
from robustra_tf.files import write_atomically

SCHEMA = 1
NAME = "results.json"
_PACKAGES = ("tensorflow", "keras", "numpy")
_ERRORS = {
    "clean_error": "clean error",
    "pgd_error": "PGD error (lower bound of the robust error)",
    "lp_error": "LP error (upper bound of the robust error)",
}


def results(
    config: Config,
    model: str,
    weights_sha256: str,
    rows: Iterable[Row],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """The figures of a finished evaluation.

    An example counts as an error of `lp` unless the bound verified it, whatever decided it, and as
    an error of `pgd` if it was misclassified or falsified: the first is an upper bound on the true
    robust error, the second a lower bound.

    Args:
      config: what was evaluated.
      model: the network's name.
      weights_sha256: of its weights.
      rows: one for each example.
      seconds: by stage.

    Returns:
      The content of results.json: errors are fractions of all n; the figures of a stage that was
      not run are absent.
    """
    rows = list(rows)
    n = len(rows)
    counts = {status: sum(row.status is status for row in rows) for status in Status}
    attacked = counts[Status.MISCLASSIFIED] + counts[Status.FALSIFIED]
    errors = {"clean_error": counts[Status.MISCLASSIFIED] / n}
    if "pgd" in config.stages:
        errors["pgd_error"] = attacked / n
    if "lp" in config.stages:
        errors["lp_error"] = (n - counts[Status.VERIFIED]) / n
    return {
        "schema": SCHEMA,
        "model": model,
        "dataset": config.dataset,
        "split": config.split,
        "eps": config.eps,
        "norm": config.norm,
        "box": config.box,
        "lp_box": config.lp_box,
        "dtype": config.dtype,
        "n": n,
        **errors,
        "undecided": counts[Status.UNKNOWN],
        "seconds": {stage: round(seconds.get(stage, 0.0), 3) for stage in config.stages},
        "versions": versions(),
        "weights_sha256": weights_sha256,
    }


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that the figures depend on."""
    return {"python": platform.python_version()} | {p: metadata.version(p) for p in _PACKAGES}


def write(figures: Mapping[str, Any], directory: Path) -> Path:
    """Writes results.json; returns its path."""
    path = directory / NAME
    write_atomically(path, json.dumps(figures, indent=2) + "\n")
    return path


def table(figures: Mapping[str, Any]) -> str:
    """The figures as lines to print."""
    n = figures["n"]
    title = (
        f"{figures['model']} on {n:,} {figures['split']} examples of {figures['dataset']}, "
        f"{figures['norm']} radius {figures['eps']:g} in pixels"
    )
    lines = [(words, figures[name]) for name, words in _ERRORS.items() if name in figures]
    lines.append(("undecided", figures["undecided"] / n))
    width = max(len(words) for words, _ in lines)
    body = [
        f"  {words:<{width}}  {share:>7.2%}  {round(share * n):>6,} of {n:,}"
        for words, share in lines
    ]
    took = ", ".join(f"{stage} {spent:.1f}" for stage, spent in figures["seconds"].items())
    return "\n".join([title, *body, f"  seconds: {took}"])
