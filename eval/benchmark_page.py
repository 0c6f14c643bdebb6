"""The page of a run over instances: what was answered, beside agreed verdicts.

One file that needs no network and no script, light or dark as its reader's system is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from robustra_tf.storage.files import write_atomically
from robustra_tf.vnncomp.tables import Table, spent

from . import figures
from .page import NAME
from .report import Picture, environment, picture
from .standing import PEER, Standing, contradictions

_TEMPLATE = "benchmark.html"


def build(out: Path, standing: Standing, agreed: Table | None) -> Path:
    """Writes `report.html` of a run into its folder; returns its path."""
    light, dark = _drawn(standing)
    content = {
        "standing": standing,
        "cells": standing.cells(),
        "compared": standing.comparison is not None,
        "wrong": list(contradictions([standing], agreed)),
        "rows": list(_rows(standing, agreed)),
        "light": light,
        "dark": dark,
    }
    path = out / NAME
    write_atomically(path, environment().get_template(_TEMPLATE).render(content))
    return path


def _rows(standing: Standing, agreed: Table | None) -> Iterator[dict[str, Any]]:
    wrong = {row.index for row in standing.wrong}
    for row in standing.rows:
        other = None if agreed is None else agreed.results.get(row.key)
        kind = "wrong" if row.index in wrong else row.status.value
        yield {"own": row, "kind": kind, "agreed": "" if other is None else other.word.value}


def _drawn(standing: Standing) -> tuple[Picture | None, Picture | None]:
    series = {"here": spent(row.result for row in standing.rows)}
    if standing.peer:
        series[PEER] = spent(standing.peer.values())
    if not any(series.values()):
        return None, None
    drawn = []
    for dark in (False, True):
        with figures.on_page(dark):
            drawn.append(
                picture("decided", "Instances decided by time", figures.decided_by(series))
            )
    return drawn[0], drawn[1]
