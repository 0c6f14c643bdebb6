"""Merges evaluations of disjoint examples.

`python -m eval.merge --out=DIR DIR1 DIR2 ...`, or `robustra merge`. Parts are made with `eval.main
--first=N --limit=M`, of a network or of a pair, on one machine after another or on several at once.
What is merged must be finished and alike in all but its range of examples: the network, the
weights, the split, the radius, the norm and every option. The merged directory holds what an
evaluation's does, with the seconds added up; it cannot be resumed.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from robustra_tf.cli import command
from robustra_tf.cli.program import Program

from . import folder, gallery, ledger, page, pair_results, results, sweep, witnesses
from .ledger import Kept, Ledger, LedgerError, Stored
from .pair_rows import PairRow
from .rows import Row

PROGRAM = Program("eval.merge")

#: What is of a part alone; the rest of an identity must be the same.
_OWN = (*gallery.PART, "parts")


class Part(NamedTuple):
    """A finished evaluation: its directory, its ledger and those of its sweep by radius."""

    directory: Path
    stored: Stored
    sweep: dict[float, Stored]


def merge(out: Path, directories: Sequence[Path], overwrite: bool = False) -> dict[str, Any]:
    """Merges finished evaluations into one; returns the content of its results.json.

    Nothing is written before everything has been checked, and no part is changed.

    Args:
      out: a new or empty directory, or one of an evaluation.
      directories: at least one, of `eval.main` or of earlier merges.
      overwrite: replace the evaluation in `out`.

    Raises:
      LedgerError: a part is missing, unfinished, damaged, of another evaluation than the first (the
        text names what differs) or has examples of another part (it names them).
      SettingError: `out` has results.
    """
    if not directories:
        raise LedgerError("expected the directories of evaluations to merge, got none")
    if out.resolve() in [directory.resolve() for directory in directories]:
        raise LedgerError(f"--out: expected another directory than the parts', got {out}")
    pairs = pair_results.is_of(directories[0])
    kind: type[Any] = PairRow if pairs else Row  # which all rows below are of
    parts = [_read(directory, kind) for directory in directories]
    _check_alike(parts)
    _check_disjoint(parts)
    parts.sort(key=lambda part: min(part.stored.rows))
    figures = [results.read(part.directory) for part in parts]
    identity = _identity(part.stored.identity for part in parts)
    at = {eps: _identity(p.sweep[eps].identity for p in parts) for eps in parts[0].sweep}
    if overwrite:
        folder.clear(out)
    for directory in (out, *(sweep.directory(out, eps) for eps in at)):
        ledger.check(directory, {}, resume=False)
    results.require_free(out)
    rows, seconds = _write(out, identity, [part.stored for part in parts], kind)
    points = []
    for eps, own in at.items():
        stored = [part.sweep[eps] for part in parts]
        points.append(sweep.point(eps, *_write(sweep.directory(out, eps), own, stored, kind)))
    sweep.write(out, identity, points)
    kept = [witnesses.read(part.directory, part.stored.identity) for part in parts]
    witnesses.write(out, identity, [witness for of_part in kept for witness in of_part])
    made = pair_results.figures if pairs else results.results
    merged = made(identity, figures[0]["model"], figures[0]["source"], rows.values(), seconds)
    results.write(merged, out)
    return merged


def _read(directory: Path, kind: type[Kept]) -> Part:
    stored = _finished(directory, kind)
    points = sweep.read(directory, stored.identity)
    radii = [point.eps for point in points]
    at = {eps: _finished(sweep.directory(directory, eps), kind) for eps in radii}
    return Part(directory, stored, at)


def _finished(directory: Path, kind: type[Kept]) -> Stored[Kept]:
    stored = ledger.read(directory, kind)
    if not stored.finished or not stored.rows:
        raise LedgerError(
            f"{directory}: the evaluation is not finished; eval.main --resume goes on"
        )
    return stored


def _check_alike(parts: Sequence[Part]) -> None:
    first = parts[0]
    for part in parts[1:]:
        found = ledger.differences(first.stored.identity, part.stored.identity, _OWN)
        if first.sweep.keys() != part.sweep.keys():
            found.append(("eps_sweep", sorted(first.sweep), sorted(part.sweep)))
        if found:
            told = "; ".join(f"{name} {one!r} there, {other!r} here" for name, one, other in found)
            raise LedgerError(
                f"{part.directory}: of another evaluation than {first.directory}: {told}"
            )


def _check_disjoint(parts: Sequence[Part]) -> None:
    owner: dict[int, Path] = {}
    for part in parts:
        for directory in {owner[index]: None for index in part.stored.rows if index in owner}:
            both = [index for index in part.stored.rows if owner.get(index) == directory]
            raise LedgerError(
                f"{part.directory}: examples {results.ranges(both)} are in {directory} too; parts "
                "must be disjoint"
            )
        owner |= dict.fromkeys(part.stored.rows, part.directory)


def _identity(identities: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What the parts have in common, and the range of each."""
    identities = list(identities)
    common = {name: value for name, value in identities[0].items() if name not in _OWN}
    return common | {"parts": [part for own in identities for part in gallery.parts(own)]}


def _write(
    directory: Path, identity: Mapping[str, Any], stored: Sequence[Stored], kind: type[Kept]
) -> tuple[dict[int, Kept], dict[str, float]]:
    """Writes the merged ledger; gives its rows in their order and its seconds."""
    directory.mkdir(parents=True, exist_ok=True)
    target = Ledger(directory, identity, resume=False, kind=kind)
    rows = {index: row for part in stored for index, row in part.rows.items()}
    for name in dict.fromkeys(name for part in stored for name in part.seconds):
        spent = sum(part.seconds.get(name, 0.0) for part in stored)
        target.record([row for row in rows.values() if row.stage == name], name, spent)
    target.finish()
    return dict(sorted(target.rows.items())), target.seconds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Merge:
    """The command's settings."""

    parts: tuple[Path, ...] = command.setting("a finished evaluation", operands="DIR")
    out: Path = command.setting("folder of the merged one")
    overwrite: bool = command.setting("replace the results that are in --out", False)
    data_dir: str | None = command.setting(
        "TensorFlow Datasets' folder, for the report's images", None
    )
    data: Path | None = command.setting(
        "the file or folder that was evaluated on, for the same", None
    )


def main() -> None:
    """Reads the command line."""
    given = PROGRAM.read(Merge, __doc__)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        figures = merge(given.out, given.parts, given.overwrite)
        table = pair_results.table if pair_results.is_of(given.out) else results.table
        print(table(figures))
        print(page.write(given.out, data_dir=given.data_dir, data=given.data))
    except (ValueError, OSError) as error:
        sys.exit(PROGRAM.refuse(error))


if __name__ == "__main__":
    main()
