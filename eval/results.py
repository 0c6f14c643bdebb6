"""What an evaluation found, as figures: results.json and the table that is printed."""

from __future__ import annotations

import datetime
import json
import platform
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from robustra_tf.cli.settings import SettingError
from robustra_tf.storage.files import write_atomically
from robustra_tf.storage.reading import read_json

from .config import STAGES
from .rows import Row, Status

SCHEMA = 1
NAME = "results.json"
#: What making proofs has taken so far, by stage.
SECONDS_OF_PROOFS = "proving.json"
_PACKAGES = ("tensorflow", "keras", "numpy", "highspy")
_REQUIRED = {"schema", "model", "source", "n", "undecided", "seconds", "date", "weights_sha256"}
SETTINGS = ("dataset", "split", "eps", "norm", "box", "lp_box", "dtype", "sound")
ERRORS = {
    "clean_error": "clean error",
    "pgd_error": "PGD error (lower bound of the robust error)",
    "ibp_error": "interval error (upper bound of the robust error)",
    "lp_error": "LP error (upper bound of the robust error)",
    "crown_error": "CROWN error (upper bound of the robust error)",
    "alpha_error": "alpha-CROWN error (upper bound of the robust error)",
    "milp_error_lower": "MILP error, found (lower bound of the robust error)",
    "milp_error_upper": "MILP error, not excluded (upper bound of the robust error)",
}


def results(
    identity: Mapping[str, Any],
    model: str,
    source: str | None,
    rows: Iterable[Row],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """The figures of a finished evaluation.

    Args:
      identity: what was evaluated, as its ledger has it.
      model: the network's name.
      source: where the network was read from, if that is known.
      rows: one for each example.
      seconds: by stage.

    Returns:
      The content of results.json: errors are fractions of all n; the figures of a stage that was
      not run are absent.
    """
    rows = list(rows)
    return {
        "schema": SCHEMA,
        "model": model,
        "source": source,
        **{name: identity[name] for name in SETTINGS},
        "first": min(row.index for row in rows),
        "n": len(rows),
        **errors(identity["stages"], rows),
        "undecided": sum(row.status is Status.UNKNOWN for row in rows),
        "decided": {
            stage: sum(row.stage == stage and row.status is not Status.UNKNOWN for row in rows)
            for stage in identity["stages"]
        },
        "seconds": {stage: round(seconds.get(stage, 0.0), 3) for stage in identity["stages"]},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "weights_sha256": identity["weights_sha256"],
    }


def errors(stages: Collection[str], rows: Sequence[Row]) -> dict[str, float]:
    """The errors that stages give, by name, as fractions of all examples.

    An example counts as an error of a bound unless that bound or one before it in the cascade
    verified it: an upper bound on the true robust error, and that of the bound alone where it is
    the first. It counts as an error of `pgd` if it was misclassified or falsified by then: a lower
    bound. The two errors of `milp` are `(misclassified + falsified) / n` and `(n - verified) / n`.

    Args:
      stages: those that were run; the errors of others are absent.
      rows: one for each example, at least one.
    """
    n = len(rows)
    wrong = {Status.MISCLASSIFIED, Status.FALSIFIED}

    def count(statuses: Collection[Status], last: str) -> int:
        """How many examples have one of the statuses by the stage `last`."""
        later = STAGES[STAGES.index(last) + 1 :]
        return sum(row.status in statuses and row.stage not in later for row in rows)

    found = {"clean_error": count({Status.MISCLASSIFIED}, "clean")}
    if "pgd" in stages:
        found["pgd_error"] = count(wrong, "pgd")
    for name in ("ibp", "lp", "crown", "alpha"):
        if name in stages:
            found[f"{name}_error"] = n - count({Status.VERIFIED}, name)
    if "milp" in stages:
        found["milp_error_lower"] = count(wrong, "milp")
        found["milp_error_upper"] = n - count({Status.VERIFIED}, "milp")
    return {name: number / n for name, number in found.items()}


def ranges(indices: Iterable[int]) -> str:
    """Indices as text, such as 3-7, 9."""
    runs: list[list[int]] = []
    for index in sorted(indices):
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that the figures depend on."""
    return {"python": platform.python_version()} | {p: metadata.version(p) for p in _PACKAGES}


def write(figures: Mapping[str, Any], directory: Path) -> Path:
    """Writes results.json; returns its path."""
    path = directory / NAME
    write_atomically(path, json.dumps(figures, indent=2) + "\n")
    return path


def read(directory: Path) -> dict[str, Any]:
    """The content of results.json.

    Raises:
      ValueError: there is none, or it is damaged or of another version of this program.
    """
    path = directory / NAME
    try:
        figures = read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: no results of a finished evaluation: {error}") from error
    missing = _REQUIRED - set(figures) if isinstance(figures, dict) else _REQUIRED
    if missing or figures["schema"] != SCHEMA:
        told = f"without {', '.join(sorted(missing))}" if missing else f"schema {figures['schema']}"
        raise ValueError(f"{path}: expected results of schema {SCHEMA}, got {told}")
    return figures


def require_free(out: Path) -> None:
    """Refuses a folder with the results of a finished evaluation.

    Raises:
      SettingError: there are some; the text says of what.
    """
    if (out / NAME).exists():
        wanted = f"a folder without results ({_told(out)}); --overwrite replaces them"
        raise SettingError("out", wanted, str(out))


def _told(out: Path) -> str:
    try:
        figures = read(out)
        return f"there are those of {title(figures)}, {figures['date']}"
    except (ValueError, KeyError):
        return f"there is a {NAME}"


def title(figures: Mapping[str, Any]) -> str:
    """What the figures are about, in a line."""
    return (
        f"{figures['model']} on {figures['n']:,} {figures['split']} examples of "
        f"{figures['dataset']}, {figures['norm']} radius {figures['eps']:g} in pixels"
    )


def table(figures: Mapping[str, Any]) -> str:
    """The figures as lines to print."""
    n = figures["n"]
    lines = [(words, figures[name]) for name, words in ERRORS.items() if name in figures]
    lines.append(("undecided", figures["undecided"] / n))
    width = max(len(words) for words, _ in lines)
    body = [
        f"  {words:<{width}}  {share:>7.2%}  {round(share * n):>6,} of {n:,}"
        for words, share in lines
    ]
    decided = ", ".join(f"{stage} {count:,}" for stage, count in figures["decided"].items())
    took = ", ".join(f"{stage} {spent:.1f}" for stage, spent in figures["seconds"].items())
    return "\n".join([title(figures), *body, f"  decided: {decided}", f"  seconds: {took}"])
