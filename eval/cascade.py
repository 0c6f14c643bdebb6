"""The cascade: a row of stages, each of which takes only what those before left undecided."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, Self

import numpy as np

from .ledger import Ledger
from .rows import Line, Row, Status


@dataclasses.dataclass(frozen=True)
class Examples:
    """Examples of a split: their positions int [n], images [n, h, w, c] and labels int [n]."""

    indices: np.ndarray
    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, positions: np.ndarray) -> Examples:
        """Those at `positions` of these."""
        return Examples(self.indices[positions], self.images[positions], self.labels[positions])


class Decisions(NamedTuple):
    """What a stage says about a batch of n examples.

    Attributes:
      examples: the batch.
      status: a `Status` each; UNKNOWN passes the example on.
      predicted: int [n], the class of the clean image, or None where the stage did not look.
      margin_lower: float [n], or None.
      worst_target: int [n], or None.
      seconds: what the batch took.
      witnesses: float32 [n, h, w, c], an adversarial example for each that is FALSIFIED (anything
        for the others), or None.
      search: of each example which searches it took, or None.
      reason: of each example why nothing was decided, where that is not the stage's own doing.
      proofs: of each example the content of the file that proves its verdict, or None; None where
        none were asked for.
      proof_seconds: processor seconds that proofs took beside the verdicts.
    """

    examples: Examples
    status: Sequence[Status]
    predicted: np.ndarray | None
    margin_lower: np.ndarray | None
    worst_target: np.ndarray | None
    seconds: float
    witnesses: np.ndarray | None = None
    search: Sequence[str] | None = None
    reason: Sequence[str] | None = None
    proofs: Sequence[bytes | None] | None = None
    proof_seconds: float = 0.0

    def rows(self, stage: str, ledger: Ledger[Row]) -> Iterator[Row]:
        """The rows of the examples, with what the ledger knows where the stage did not look."""
        examples = self.examples
        for i, index in enumerate(examples.indices.tolist()):
            if self.predicted is None:
                predicted = ledger.rows[index].predicted
            else:
                predicted = int(self.predicted[i])
            margin, target = self.margin_lower, self.worst_target
            yield Row(
                index,
                int(examples.labels[i]),
                predicted,
                self.status[i],
                stage,
                None if margin is None else float(margin[i]),
                None if target is None else int(target[i]),
                self.seconds / len(examples),
                "" if self.search is None else self.search[i],
                "" if self.reason is None else self.reason[i],
            )


class Judged(Line, Protocol):
    """A row that a stage adds."""

    @property
    def status(self) -> Status:
        """What is known of the example."""
        ...

    @property
    def stage(self) -> str:
        """The one that has said it."""
        ...


class Asked(Protocol):
    """Images, properties or whatever else stages decide: positions, and a choice of them."""

    @property
    def indices(self) -> np.ndarray:
        """Positions among all, int [n]."""
        ...

    def take(self, positions: np.ndarray) -> Self:
        """Those at `positions` of these."""
        ...


class Decided(Protocol):
    """What a stage says about a batch."""

    @property
    def seconds(self) -> float:
        """That the batch took."""
        ...

    def rows(self, stage: str, ledger: Ledger[Any]) -> Iterable[Judged]:
        """The rows of its examples."""
        ...


class Stage(Protocol):
    """A way to decide examples."""

    name: str
    batch_size: int

    def run(self, batches: Iterable[Any]) -> Iterator[Decided]:
        """Decides batches, in any order. An example's verdict must not depend on its batch."""
        ...


# Called with a stage's name, the rows it added and how many examples it had and has left.
Watch = Callable[[str, Sequence[Any], int, int], None]
# Called with a stage's name and its decisions before they are recorded.
Keep = Callable[[str, Any], None]


def run(
    stages: Sequence[Stage],
    examples: Asked,
    ledger: Ledger[Any],
    watch: Watch,
    keep: Keep | None = None,
) -> None:
    """Runs the stages over the examples, and records every verdict as it comes.

    What the ledger holds already is not done again. A batch is made up of the same examples as in
    an uninterrupted run, so that a resumed one rounds alike.

    Args:
      stages: in the order of the cascade; the first gives predictions.
      examples: all of them.
      ledger: that of this evaluation.
      watch: is told of progress.
      keep: is given what was decided, with its witnesses.
    """
    names = [stage.name for stage in stages]
    for order, stage in enumerate(stages):
        last = [_progress(ledger.rows.get(int(index)), names) for index in examples.indices]
        entered = np.flatnonzero([reached >= order for reached, _ in last])
        done = {int(examples.indices[i]) for i in entered if last[i][1] >= order}
        left = len(entered) - len(done)
        watch(stage.name, (), len(entered), left)
        for decisions in stage.run(_unfinished(examples, entered, done, stage.batch_size)):
            rows = [row for row in decisions.rows(stage.name, ledger) if row.index not in done]
            # First: what the ledger has is not done again.
            if keep is not None:
                keep(stage.name, decisions)
            ledger.record(rows, stage.name, decisions.seconds)
            left -= len(rows)
            watch(stage.name, rows, len(entered), left)


def _progress(row: Judged | None, names: Sequence[str]) -> tuple[int, int]:
    """The last stage that an example enters as far as is known, and the last that has seen it."""
    if row is None:
        return 0, -1
    seen = names.index(row.stage)
    return seen + (row.status is Status.UNKNOWN), seen


def _unfinished(
    examples: Asked, entered: np.ndarray, done: set[int], batch_size: int
) -> Iterator[Asked]:
    for start in range(0, len(entered), batch_size):
        batch = examples.take(entered[start : start + batch_size])
        if not done.issuperset(batch.indices.tolist()):
            yield batch
