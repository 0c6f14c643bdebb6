"""All that an evaluation or a run over instances leaves in its folder, and its removal."""

from __future__ import annotations

import shutil
from pathlib import Path

from . import answered, check, ledger, page, results, sweep, witnesses

#: All that an evaluation, a merge or a run over instances writes, but for the lock.
_FILES = (
    *(results.NAME, ledger.NAME, ledger.IDENTITY_NAME),
    *(witnesses.NAME, sweep.NAME, page.NAME, answered.NAME, check.CHECKED),
    results.SECONDS_OF_PROOFS,
)
_FOLDERS = (sweep.FOLDER, page.FOLDER, answered.WITNESSES)


def clear(out: Path) -> None:
    """Removes what one of them has left in a folder, and nothing else."""
    for name in _FILES:
        (out / name).unlink(missing_ok=True)
    for name in _FOLDERS:
        shutil.rmtree(out / name, ignore_errors=True)
