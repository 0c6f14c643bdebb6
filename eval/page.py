"""The page at the end of an evaluation, where what draws it is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
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

    def build() -> Path:
        from . import report

        return report.build(out, **options)

    return written(build, f"robustra report --out={out}")


def written(build: Callable[[], Path], again: str) -> str:
    """Writes a page; gives a line that says where, or why not.

    Args:
      build: writes it and gives its path; imports what draws it.
      again: the command that writes it where that is installed later.
    """
    try:
        return f"report in {build()}"
    except ModuleNotFoundError as error:
        if error.name not in _DRAWN_WITH:
            raise
        return (
            f"no report: {error.name} is not installed; after pip install 'robustra-tf[report]' "
            f"{again} writes it"
        )
