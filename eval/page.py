"""The page at the end of an evaluation, where what draws it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

NAME, FOLDER = "report.html", "figures"
#: What the extra `report` of the package installs, an evaluation itself does not need.
_DRAWN_WITH = ("jinja2", "matplotlib")


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
