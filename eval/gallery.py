"""Which images of an evaluation a report shows, and where they come from."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robustra_tf.data import Origin

from .cascade import Examples
from .rows import Row, Status
from .witnesses import Witness


def verified(rows: Iterable[Row], most: int) -> list[Row]:
    """The verified examples with the largest margins, largest first."""
    return _by_margin((row for row in rows if row.status is Status.VERIFIED), most)


def undecided(rows: Iterable[Row], most: int) -> list[Row]:
    """The undecided examples with the largest margins: those nearest to being verified."""
    return _by_margin((row for row in rows if row.status is Status.UNKNOWN), most)


def _by_margin(rows: Iterable[Row], most: int) -> list[Row]:
    # Those without a margin come last, for the stages that compute none.
    def order(row: Row) -> float:
        return -np.inf if row.margin_lower is None else row.margin_lower

    return sorted(rows, key=lambda row: (-order(row), row.index))[:most]


def falsified(witnesses: Iterable[Witness], rows: Mapping[int, Row], most: int) -> list[Witness]:
    """Witnesses of examples that the ledger calls falsified, taken from the stages in turn."""
    of_stage: dict[str, list[Witness]] = {}
    for witness in witnesses:
        row = rows.get(witness.index)
        if row is not None and row.status is Status.FALSIFIED and row.label == witness.label:
            of_stage.setdefault(witness.stage, []).append(witness)
    turns = itertools.chain(*itertools.zip_longest(*of_stage.values()))
    return [witness for witness in turns if witness is not None][:most]


def parts(identity: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The ranges of the split that an evaluation is of: `first`, `limit` and `data_sha256` each."""
    return identity.get("parts") or [{name: identity[name] for name in PART}]


PART = ("first", "limit", "data_sha256")


def load(identity: Mapping[str, Any], data_dir: str | None, path: Path | None = None) -> Examples:
    """The examples of an evaluation, read again.

    Args:
      identity: what was evaluated, as its ledger has it.
      data_dir: TensorFlow Datasets' folder, for a data set by name.
      path: of the file or folder, for examples of one's own.

    Raises:
      ValueError, OSError: they are not there, or are not those that were evaluated.
    """
    # They load Keras, which a report of an evaluation that just ended need not do again.
    from robustra_tf.storage import fingerprint

    from . import inputs

    origin = Origin(identity["dataset"], data_dir, path, identity.get("scale"))
    found = []
    for part in parts(identity):
        first = part["first"]
        images, labels = inputs.load_range(origin, identity["split"], first, part["limit"])
        if fingerprint.arrays_sha256([images, labels]) != part["data_sha256"]:
            raise ValueError("the images there are not those that were evaluated")
        found.append(Examples(np.arange(first, first + len(images)), images, labels))
    return Examples(
        *(np.concatenate([getattr(e, n) for e in found]) for n in ("indices", "images", "labels"))
    )


def pictures(examples: Examples, rows: Sequence[Row]) -> list[np.ndarray]:
    """The image [h, w, c] of each row."""
    place = positions(examples, [row.index for row in rows])
    return [examples.images[place[row.index]] for row in rows]


def positions(examples: Examples, indices: Collection[int]) -> dict[int, int]:
    """Where in `examples` each index of the split stands."""
    wanted = set(indices)
    return {index: k for k, index in enumerate(examples.indices.tolist()) if index in wanted}
