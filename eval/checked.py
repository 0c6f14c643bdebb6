"""What `eval.check --run` found of an evaluation, for its page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robustra_tf.storage.reading import read_json

from .check import CHECKED

_TOTALS = ("verified", "accepted", "falsified", "replayed", "open")
_STAGE = ("proofs", "bytes", "largest", "leaves", "seconds")


def read(out: Path, network_sha256: str | None) -> dict[str, Any] | None:
    """What a check of the evaluation in a folder found; None of none, or of another network.

    Raises:
      ValueError: the file is damaged.
    """
    path = out / CHECKED
    if not path.is_file():
        return None
    found = read_json(path)
    right = isinstance(found, dict) and isinstance(found.get("holds"), bool)
    right = right and all(type(found.get(name)) is int for name in _TOTALS)
    right = right and isinstance(found.get("mode"), str)
    right = right and _is_replayed(found.get("exported"))
    stages = found.get("stages") if right else None
    if not isinstance(stages, dict) or not all(map(_is_stage, stages.values())):
        raise ValueError(f"{path}: expected what eval.check --run writes")
    own = found.get("hashes")
    same = isinstance(own, dict) and own.get("network") == network_sha256
    return found if same else None


def _is_replayed(exported: Any) -> bool:
    return (
        isinstance(exported, dict)
        and type(exported.get("count")) is int
        and all(
            exported.get(name) is None or isinstance(exported[name], str)
            for name in ("network", "runtime", "reason")
        )
    )


def _is_stage(stage: Any) -> bool:
    return isinstance(stage, dict) and all(
        isinstance(stage.get(name), int | float) and stage["proofs"] > 0 for name in _STAGE
    )
