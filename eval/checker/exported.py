"""Counterexamples by the network as it was exported: in another process, which has what runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np


class NotReplayedError(Exception):
    """Nothing could be replayed; the text says why."""


class Replayed(NamedTuple):
    """What a network said of counterexamples.

    Attributes:
      network: its file or folder; None where none was given.
      runtime: what ran it; None where nothing did.
      count: counterexamples that it answers as wrongly.
      reason: why none was replayed; None where they were.
    """

    network: str | None
    runtime: str | None
    count: int
    reason: str | None


def replayed(network: Path, x: np.ndarray, labels: np.ndarray) -> tuple[str, np.ndarray]:
    """What runs a network, and whether each input [n, *shape] has the logit of its label reached.

    Raises:
      NotReplayedError: it is no network, or what runs it is not installed.
    """
    package = __name__.rsplit(".", 2)[0]
    paths = os.pathsep.join(path for path in sys.path if path)
    with tempfile.TemporaryDirectory() as home:
        points = Path(home) / "points.npz"
        np.savez(points, x=x.astype(np.float32), label=labels)
        done = subprocess.run(
            [sys.executable, "-m", f"{package}.replay", str(network), str(points)],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": paths},
            check=False,
        )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise NotReplayedError(lines[-1] if lines else f"exit code {done.returncode}")
    try:
        told = json.loads(done.stdout.splitlines()[-1])
        found = np.array(told["unsafe"], bool)
        runtime = str(told["runtime"])
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise NotReplayedError(f"{package}.replay: no answer: {error}") from error
    if found.shape != labels.shape:
        raise NotReplayedError(f"{package}.replay: {found.size} answers for {labels.size} points")
    return runtime, found
