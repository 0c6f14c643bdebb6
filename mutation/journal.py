"""What became of every mutant, written down at once: a run that was ended goes on from there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from pathlib import Path

from mutation.mutants import Mutant


@dataclasses.dataclass(frozen=True)
class Trial:
    """A mutant and what became of it: `caught` by which test, empty if it survived."""

    mutant: Mutant
    caught: str
    seconds: float
    tests: int
    untried: int = 0

    def __str__(self) -> str:
        if self.caught:
            return f"caught    {self.mutant}   by {self.caught} in {self.seconds:.1f} s"
        left = f", {self.untried} not tried" if self.untried else ""
        return f"SURVIVED  {self.mutant}   {self.tests} tests{left}, {self.seconds:.1f} s"


class Journal:
    """A file with a line for every mutant tried, which counts while its source file is the same."""

    def __init__(self, path: Path, *, keep: str = "none"):
        """Opens it: `keep` says what of it still counts, `none`, `caught` or `all`."""
        self._path, self._lock = path, threading.Lock()
        self._known: dict[str, dict] = {}
        if keep == "none":
            path.unlink(missing_ok=True)
        elif path.exists():
            entries = map(json.loads, path.read_text(encoding="utf-8").splitlines())
            last = {entry.pop("mutant"): entry for entry in entries}
            self._known = {m: e for m, e in last.items() if keep == "all" or e["caught"]}

    def known(self, mutant: Mutant, source: str) -> Trial | None:
        """What was written of a mutant of the file `source`, or None."""
        entry = self._known.get(_name(mutant, source))
        return None if entry is None else Trial(mutant, **entry)

    def add(self, trial: Trial, source: str) -> None:
        """Writes what became of a mutant."""
        entry = dataclasses.asdict(trial) | {"mutant": _name(trial.mutant, source)}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def _name(mutant: Mutant, source: str) -> str:
    digest = hashlib.sha256(mutant.applied(source).encode()).hexdigest()
    return f"{mutant} {digest[:16]}"
