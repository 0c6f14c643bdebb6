"""All that an evaluation leaves in its folder, and its removal."""

from __future__ import annotations

import shutil
from pathlib import Path

from . import ledger, page, results, sweep, witnesses

#: All that an evaluation or a merge writes, but for the lock.
_FILES = (
    *(results.NAME, ledger.NAME, ledger.IDENTITY_NAME),
    *(witnesses.NAME, sweep.NAME, page.NAME),
)
_FOLDERS = (sweep.FOLDER, page.FOLDER)


def clear(out: Path) -> None:
    """Removes what an evaluation or a merge has left in a folder, and nothing else."""
    for name in _FILES:
        (out / name).unlink(missing_ok=True)
    for name in _FOLDERS:
        shutil.rmtree(out / name, ignore_errors=True)
