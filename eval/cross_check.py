"""Lists where the results of two verifiers differ, contradictions first.

`python -m eval.cross_check A.csv B.csv`, or `robustra cross-check A.csv B.csv`. A table has a
header that names `onnx`, `vnnlib` and `verdict`, as `verdicts.csv` of `robustra verify` has, or is
the `results.csv` of VNN-COMP. Instances are the same where their files have the same names.

Exit codes: 0 no contradiction, 2 a file that cannot be read, 5 one contradiction or more.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from robustra_tf.cli import command
from robustra_tf.cli.program import Program
from robustra_tf.cli.settings import SettingError
from robustra_tf.cli.stopping import Exit
from robustra_tf.vnncomp import tables
from robustra_tf.vnncomp.tables import Comparison, Key, Result

PROGRAM = Program("eval.cross_check")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossCheck:
    """The command's settings."""

    files: tuple[Path, ...] = command.setting("two tables of results", operands="FILE")

    def __post_init__(self):
        if len(self.files) != 2:
            raise SettingError("files", "two tables", " ".join(map(str, self.files)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares what the command line names; returns the process's exit code."""
    given = PROGRAM.read(CrossCheck, __doc__, arguments)
    try:
        first, second = (tables.read(file).results for file in given.files)
    except (ValueError, OSError) as error:
        return PROGRAM.refuse(error)
    found = tables.compare(first, second)
    print("\n".join(_lines(found, first, second)))
    return Exit.CONTRADICTED if found.contradictions else Exit.DONE


def _lines(
    found: Comparison, first: Mapping[Key, Result], second: Mapping[Key, Result]
) -> Iterator[str]:
    parts = (
        ("CONTRADICTION", found.contradictions),
        ("decided by the first alone", found.first),
        ("decided by the second alone", found.second),
    )
    for words, keys in parts:
        for key in keys:
            yield f"{words}: {key}: {first[key].word}, {second[key].word}"
    yield (
        f"{len(found.contradictions)} contradictions, {len(found.agreed)} agreed, "
        f"{len(found.first)} decided by the first alone, {len(found.second)} by the second alone, "
        f"{len(found.open)} by none"
    )
    missing = (("first", found.only_first), ("second", found.only_second))
    for words, keys in missing:
        if keys:
            yield f"{len(keys)} instances in the {words} alone"


if __name__ == "__main__":
    sys.exit(main())
