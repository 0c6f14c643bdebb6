"""The page at the end of an evaluation, where what draws it is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

NAME, FOLDER = "report.html", "figures"
#: What the extra `report` of the package installs, an evaluation itself does not need.
_DRAWN_WITH = ("jinja2", "matplotlib")


def missing() -> str | None:
    """What pages are drawn with and is not installed, if anything."""
    lacking = (name for name in _DRAWN_WITH if importlib.util.find_spec(name) is None)
    return next(lacking, None)


def write(out: Path, **options: Any) -> str:
    """Writes the page of a finished evaluation; gives a line that says where, or why not.

    Args:
      out: the evaluation's directory.
      options: of `report.build`.
    """
    try:
        from . import report
    except ModuleNotFoundError as error:
        if error.name not in _DRAWN_WITH:
            raise
        return (
            f"no report: {error.name} is not installed; after pip install 'robustra-tf[report]' "
            f"robustra report --out={out} writes it"
        )
    return f"report in {report.build(out, **options)}"
