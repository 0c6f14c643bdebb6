"""What a folder of a run says of its progress: read again and again while others write it.

Nothing is written, and a file that is read while it is replaced is the old one or the new one.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from robustra_tf.storage.reading import read_json

from . import ledger
from .answered import Answered
from .held import Held
from .pair_rows import PairRow
from .rows import Row

#: Images that are shown, and seconds of looking back when a speed is measured.
HARDEST, _SPAN = 12, 300.0
_KINDS = {kind.FIELDS: kind for kind in (Row, PairRow, Held, Answered)}
#: Columns of `history.csv` that are drawn, in percent of the examples.
CURVES = (
    *("clean_error", "robust_error", "test_clean_error", "test_lp_error"),
    *("validation_clean_error", "validation_lp_error", "validation_interval_error"),
)
_WAITS = "unknown"


@dataclasses.dataclass(frozen=True)
class Curve:
    """A line: its name, and its points (x, y)."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a folder has come.

    Attributes:
      title: what it is.
      done, total: of examples or epochs; the total is None where it is not known yet.
      unit: what is counted.
      finished: whether nothing more comes.
      seconds_left: about; None where that cannot be told.
      counts: of each status.
      stages: (stage, decided, waiting for it, seconds) of each.
      axes: what x and y of the curves are.
      curves: lines.
      hardest: rows by name, the hardest first.
      error: what kept the folder from being read; empty where nothing did.
    """

    title: str
    done: int = 0
    total: int | None = None
    unit: str = "examples"
    finished: bool = False
    seconds_left: float | None = None
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    stages: Sequence[tuple[str, int, int, float]] = ()
    axes: tuple[str, str] = ("", "")
    curves: Sequence[Curve] = ()
    hardest: Sequence[Mapping[str, Any]] = ()
    identity: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    error: str = ""


class Watched:
    """A folder, and the speed that was seen."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic):
        """Looks at nothing yet."""
        self._folder, self._clock = folder, clock
        self._seen: dict[str, collections.deque[tuple[float, int]]] = {}

    def look(self) -> list[Progress]:
        """What there is: of the folder, and of those in it, as a run or a benchmark leaves them."""
        found: list[Progress] = []
        for place in [self._folder, *sorted(self._folder.iterdir())]:
            name = place.resolve().name
            for file, read in (("history.csv", _training), (ledger.NAME, _evaluation)):
                if not (place / file).is_file():
                    continue
                try:
                    one = read(place, name)
                except (OSError, ValueError, KeyError) as error:
                    one = Progress(name, error=str(error))
                found.append(self._timed(f"{place / file}", one))
        return found

    def _timed(self, key: str, one: Progress) -> Progress:
        """With the time left at the speed that was seen."""
        seen, now = self._seen.setdefault(key, collections.deque()), self._clock()
        done = one.done
        if one.stages:  # what is undecided is seen by the next stage too
            done = -sum(left for _, _, left, _ in one.stages)
        if not seen or done != seen[-1][1]:
            seen.append((now, done))
        while len(seen) > 2 and seen[0][0] < now - _SPAN:
            seen.popleft()
        (start, first), (_, last) = seen[0], seen[-1]
        left = -done if one.stages else (one.total or 0) - done
        if one.finished or one.total is None or last <= first or now <= start:
            return one
        return dataclasses.replace(one, seconds_left=left * (now - start) / (last - first))


def _training(place: Path, name: str) -> Progress:
    """A run of training: epochs, errors, radius."""
    config = read_json(place / "config.json")
    epochs = config.get("epochs") if isinstance(config, dict) else None
    with (place / "history.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    networks = list(dict.fromkeys(row["network"] for row in rows))
    done = min((sum(row["network"] == n for row in rows) for n in networks), default=0)
    curves = [
        Curve(f"{network}: {column.replace('_', ' ')}", points)
        for network in networks
        for column in CURVES
        if (points := _points(rows, network, column))
    ]
    total = epochs if isinstance(epochs, int) else None
    return Progress(
        f"{name}: training of {' and '.join(networks) or 'networks'}",
        done=done,
        total=total,
        unit="epochs",
        finished=total is not None and done >= total,
        counts={},
        axes=("epoch", "error in %"),
        curves=curves,
    )


def _points(
    rows: Iterable[Mapping[str, str]], network: str, column: str
) -> list[tuple[float, float]]:
    found = [
        (float(row["epoch"]), 100 * float(row[column]))
        for row in rows
        if row["network"] == network and row.get(column)
    ]
    return [point for point in found if math.isfinite(point[1])]


def _evaluation(place: Path, name: str) -> Progress:
    """An evaluation or a benchmark: statuses, stages, what took longest."""
    with (place / ledger.NAME).open(encoding="utf-8", errors="replace") as file:
        fields = tuple(file.readline(4096).strip().split(","))
    kind = _KINDS.get(fields)
    if kind is None:
        raise ValueError(f"{place / ledger.NAME}, line 1: expected a ledger's columns")
    stored = ledger.read(place, kind)
    rows = [_named(row) for row in stored.rows.values()]
    identity = stored.identity
    stages = _stages(rows, list(identity.get("stages", ())), stored.seconds)
    waiting = sum(left for _, _, left, _ in stages)
    total = _total(identity, stored.finished, rows)
    return Progress(
        f"{name}: {_about(identity)}",
        done=len(rows) - waiting if stages else len(rows),
        total=total,
        unit="instances" if "instances" in identity else "examples",
        finished=stored.finished,
        counts=collections.Counter(row["status"] for row in rows),
        stages=stages,
        axes=("seconds of an example, at most", "examples that took no longer, in %"),
        curves=_quantiles(rows, total),
        hardest=sorted(rows, key=_hardness)[:HARDEST],
        identity=identity,
    )


def _named(row: Any) -> dict[str, Any]:
    """A row of any ledger as what the page shows."""
    cells = vars(row)
    status = cells["silent"] if "silent" in cells else cells["status"]
    margin = cells.get("margin_lower", cells.get("pair_margin"))
    finite = isinstance(margin, float) and math.isfinite(margin)
    return {
        "index": row.index,
        "what": cells.get("name") or cells.get("query") or f"no. {row.index}",
        "label": cells.get("label"),
        "status": str(status.value),
        "stage": cells.get("stage", ""),
        "margin": margin if finite else None,
        "seconds": float(cells["seconds"]),
        "reason": cells.get("reason", ""),
    }


def _hardness(row: Mapping[str, Any]) -> tuple:
    """First what is undecided, then what took longest."""
    return (row["status"] not in (_WAITS, "timeout"), -row["seconds"], row["index"])


def _stages(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], seconds: Mapping[str, float]
) -> list[tuple[str, int, int, float]]:
    """(stage, decided by it, waiting for it, seconds) of each, in their order."""
    last = {name: place for place, name in enumerate(names)}
    found, waiting = [], 0
    for place, name in enumerate(names):
        here = [row for row in rows if last.get(row["stage"]) == place]
        decided = sum(row["status"] != _WAITS for row in here)
        found.append((name, decided, waiting, seconds.get(name, 0.0)))
        waiting = len(here) - decided
    return found


def _total(
    identity: Mapping[str, Any], finished: bool, rows: Sequence[Mapping[str, Any]]
) -> int | None:
    """How many examples there are, as far as that is written down."""
    for name in ("instances", "properties"):
        if isinstance(identity.get(name), list):
            return len(identity[name])
    limit = identity.get("limit")
    stages = identity.get("stages", ())
    # The first stage has seen all of them before the second sees any.
    begun = any(row["stage"] in stages[1:] for row in rows)
    return limit if isinstance(limit, int) else len(rows) if finished or begun else None


def _quantiles(rows: Sequence[Mapping[str, Any]], total: int | None) -> list[Curve]:
    """The share of all examples that took at most so many seconds in their last stage."""
    seconds = sorted(row["seconds"] for row in rows)
    share = 100.0 / max(total or 0, len(seconds), 1)
    step = max(1, len(seconds) // 200)
    chosen = [*range(0, len(seconds), step), len(seconds) - 1] if seconds else []
    return [Curve("examples", [(seconds[i], share * (i + 1)) for i in chosen])] if seconds else []


def _about(identity: Mapping[str, Any]) -> str:
    if "instances" in identity:
        return "instances"
    if "properties" in identity and isinstance(identity["properties"], list):
        return "properties"
    words = [identity.get("dataset") or "images", identity.get("split") or ""]
    eps = identity.get("eps")
    words += [f"{identity.get('norm')} radius {eps:g}"] if isinstance(eps, int | float) else []
    return ", ".join(filter(None, [" ".join(filter(None, words[:2])), *words[2:]]))
