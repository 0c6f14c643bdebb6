"""The page of an evaluation of properties: what was decided, by which stage, file by file."""

from __future__ import annotations

import collections
from pathlib import Path

from robustra_tf.storage.files import write_atomically

from . import results
from .held import Held
from .ledger import read
from .page import NAME
from .rows import Status

_TEMPLATE = "properties.html"
#: In which order files are shown: what went wrong first, then what is nearest to be decided.
_ORDER = (Status.FALSIFIED, Status.UNKNOWN, Status.VERIFIED)


def is_of(out: Path) -> bool:
    """Whether a directory has results, of properties."""
    try:
        return "properties" in results.read(out)
    except ValueError:
        return False


def build(out: Path) -> Path:
    """Writes `report.html` for the finished evaluation in a directory; gives its path.

    Raises:
      ValueError: no finished evaluation there, or a damaged file.
    """
    from .report import environment

    stored, found = read(out, Held), results.read(out)
    if not stored.finished:
        raise ValueError(f"{out}: the evaluation is not finished; eval.main --resume goes on")
    rows = sorted(stored.rows.values(), key=_place)
    decided = collections.Counter(
        (row.stage, row.status) for row in rows if row.status is not Status.UNKNOWN
    )
    stages, left = [], len(rows)
    for name, spent in found["seconds"].items():
        counts = {status.value: decided[name, status] for status in _ORDER[::2]}
        stages.append({"name": name, "entered": left, "decided": counts, "seconds": spent})
        left -= sum(counts.values())
    content = {"figures": found, "settings": stored.identity, "rows": rows, "stages": stages}
    path = out / NAME
    write_atomically(path, environment().get_template(_TEMPLATE).render(content))
    return path


def _place(row: Held) -> tuple[int, float, int]:
    margin = float("-inf") if row.margin_lower is None else row.margin_lower
    return _ORDER.index(row.status), margin, row.index
