"""Checks a whole evaluation: what its ledger says of every example, against its proofs."""

from __future__ import annotations

import concurrent.futures
import hashlib
import multiprocessing
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import exported, files, proof
from .claim import UnreadableError
from .evaluation import FALSE, OPEN, PROVEN, Evaluation, Line
from .exported import Replayed
from .rejection import RejectedError

_NAME = re.compile(r"[0-9]{7,}\.npz")
#: Threads of a product in a worker; its name in what NumPy may be built with.
_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
# A worker is given so many files at a time.
_CHUNK = 8


class Work(NamedTuple):
    """How a run is checked.

    Attributes:
      processes: that work side by side.
      network: as it was exported, by which counterexamples are replayed; None for none.
    """

    processes: int = 1
    network: Path | None = None


class Outcome(NamedTuple):
    """What became of one example of a run.

    Attributes:
      index: its position.
      status: in the ledger.
      stage: that decided it.
      reason: why its proof is not accepted; None where it is, or where nothing is claimed.
      there: whether there is a file.
      leaves, size, seconds: of the file, and processor seconds that checking took.
      image: hash of its image and label, by which data are told apart.
      point: a counterexample that holds, with the label; None where there is none.
    """

    index: int
    status: str
    stage: str
    reason: str | None
    there: bool = False
    leaves: int = 0
    size: int = 0
    seconds: float = 0.0
    image: str | None = None
    point: tuple[np.ndarray, int] | None = None


class Summary(NamedTuple):
    """Totals of a run.

    Attributes:
      verified, accepted: examples that the ledger has as verified, and proofs accepted of these.
      falsified, replayed: falsified or misclassified, and counterexamples that hold.
      open: the rest.
      refused: examples whose file is not accepted, and verified ones that have none, with reasons.
      stages: of each stage: proofs, bytes, leaves and processor seconds.
      hashes: of the network, of the images that have files, and of the files.
      exported: what the network as it was exported says of the counterexamples that hold.
    """

    verified: int
    accepted: int
    falsified: int
    replayed: int
    open: int
    refused: tuple[Outcome, ...]
    stages: dict[str, dict[str, Any]]
    hashes: dict[str, str]
    exported: Replayed

    @property
    def holds(self) -> bool:
        """Whether every example that counts as verified is, and no file is refused."""
        return not self.refused and self.accepted == self.verified


def check(
    evaluation: Evaluation,
    folder: Path,
    options: files.Options,
    work: Work,
    watch: Callable[[Outcome], None],
) -> Summary:
    """Checks every example of an evaluation.

    Args:
      evaluation: what it says.
      folder: its proofs, and the network that they share.
      options: how they are checked.
      work: who does it, and by which network counterexamples are replayed.
      watch: is told of every example.

    Raises:
      UnreadableError: the network is not there, or no network.
      RejectedError: it is another one than the evaluation's.
    """
    shared = proof.network(folder / proof.SHARED)
    for asked in (options.network_sha256, evaluation.sha256.get("network")):
        if asked is not None and asked.lower() != shared.sha256:
            raise RejectedError(
                "network", "network_sha256", f"{shared.sha256} is another network's"
            )
    strange = sorted(path.name for path in folder.iterdir() if not _known(path, evaluation))
    if strange:
        raise RejectedError(str(folder), "files", f"{strange[0]} is of no example of the run")
    outcomes = []
    for outcome in _outcomes(evaluation, folder, options, work.processes):
        watch(outcome)
        outcomes.append(outcome)
    outcomes.sort(key=lambda one: one.index)
    hashes = {"network": shared.sha256, "proofs": folder_sha256(folder)}
    images = [one.image for one in outcomes if one.image is not None]
    if len(images) == len(outcomes):
        hashes["data"] = hashlib.sha256("".join(images).encode()).hexdigest()
    _compare(evaluation.sha256, hashes)
    held = sum(one.point is not None for one in outcomes)
    outcomes, replayed = _exported(outcomes, work.network)
    return _summary(outcomes, hashes, held, replayed)


def _exported(outcomes: list[Outcome], network: Path | None) -> tuple[list[Outcome], Replayed]:
    """The outcomes, refused where the exported network answers a counterexample rightly."""
    points = {at: one.point for at, one in enumerate(outcomes) if one.point is not None}
    outcomes = [one._replace(point=None) for one in outcomes]
    if network is None:
        return outcomes, Replayed(None, None, 0, "no exported network is given")
    if not points:
        return outcomes, Replayed(str(network), None, 0, "there are no counterexamples")
    x, labels = (np.stack(part) for part in zip(*points.values(), strict=True))
    try:
        runtime, unsafe = exported.replayed(network, x, labels)
    except exported.NotReplayedError as error:
        return outcomes, Replayed(str(network), None, 0, str(error))
    reason = f"{network} answers its counterexample with the label"
    for at in np.array(list(points))[~unsafe].tolist():
        outcomes[at] = outcomes[at]._replace(reason=reason)
    return outcomes, Replayed(str(network), runtime, int(unsafe.sum()), None)


def folder_sha256(folder: Path) -> str:
    """SHA-256 of a folder of proofs: of each file in order its name and its own hash."""
    whole = hashlib.sha256()
    for path in sorted(folder.glob("*.npz")):
        whole.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def image_sha256(x: np.ndarray, label: int) -> str:
    """SHA-256 of an image, as little-endian float32, followed by its label as text."""
    content = np.ascontiguousarray(x, "<f4").tobytes()
    return hashlib.sha256(content + f" {label}".encode()).hexdigest()


def _known(path: Path, evaluation: Evaluation) -> bool:
    if path.name == proof.SHARED:
        return True
    return bool(_NAME.fullmatch(path.name)) and int(path.stem) in evaluation.lines


def _compare(claimed: dict[str, str], found: dict[str, str]) -> None:
    for name, value in found.items():
        if name in claimed and claimed[name] != value:
            raise RejectedError("results.json", f"sha256.{name}", f"the files have {value}")


def _outcomes(
    evaluation: Evaluation, folder: Path, options: files.Options, processes: int
) -> Iterator[Outcome]:
    work = _Process(evaluation, folder, options)
    lines = list(evaluation.lines.values())
    if processes <= 1:
        yield from map(work.outcome, lines)
        return
    # Products are small: a thread for each process is worth more than threads in it.
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    with concurrent.futures.ProcessPoolExecutor(
        processes,
        multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(evaluation, folder, options),
    ) as pool:
        yield from pool.map(_work_on, lines, chunksize=_CHUNK)


class _Process:
    """One process's work."""

    def __init__(self, evaluation: Evaluation, folder: Path, options: files.Options):
        self.evaluation, self.folder = evaluation, folder
        self.shared = proof.network(folder / proof.SHARED)
        self.checker = files.checker_of(self.shared, options)

    def outcome(self, line: Line) -> Outcome:
        """What becomes of one example."""
        path, begun = self.folder / f"{line.index:07d}.npz", time.process_time()
        found = Outcome(line.index, line.status, line.stage, None)
        if not path.exists():
            missing = "it is verified, and there is no proof of it" if line.proven else None
            return found._replace(reason=missing)
        found = found._replace(there=True, size=path.stat().st_size)
        try:
            found = self._check(path, line, found)
        except (UnreadableError, RejectedError) as error:
            found = found._replace(reason=str(error))
        return found._replace(seconds=time.process_time() - begun)

    def _check(self, path: Path, line: Line, so_far: Outcome) -> Outcome:
        read = proof.read(path, self.shared)
        if read.named_sha256 != read.sha256:
            raise RejectedError("network", "network_sha256", f"the network's is {read.sha256}")
        if len(read.examples) != 1:
            raise RejectedError(path.name, "examples", f"{len(read.examples)}, instead of one")
        (example,) = read.examples
        self.evaluation.agree(example, line)
        found = self.checker.check(example, "example 0")
        label, point = example.label, example.point
        return so_far._replace(
            leaves=found.leaves,
            image=None if label is None else image_sha256(example.x, label),
            point=None if label is None or point is None else (point, label),
        )


_own: dict[str, _Process] = {}


def _begin(evaluation: Evaluation, folder: Path, options: files.Options) -> None:
    _own["work"] = _Process(evaluation, folder, options)


def _work_on(line: Line) -> Outcome:
    return _own["work"].outcome(line)


def _summary(
    outcomes: list[Outcome], hashes: dict[str, str], held: int, replayed: Replayed
) -> Summary:
    def count(statuses: tuple[str, ...], accepted: bool = False) -> int:
        return sum(
            one.status in statuses and not (accepted and (one.reason is not None or not one.there))
            for one in outcomes
        )

    stages: dict[str, dict[str, Any]] = {}
    for one in outcomes:
        if one.there:
            own = stages.setdefault(
                one.stage, {"proofs": 0, "bytes": 0, "largest": 0, "leaves": 0, "seconds": 0.0}
            )
            own["proofs"] += 1
            own["bytes"] += one.size
            own["largest"] = max(own["largest"], one.size)
            own["leaves"] += one.leaves
            own["seconds"] += one.seconds
    return Summary(
        verified=count((PROVEN,)),
        accepted=count((PROVEN,), accepted=True),
        falsified=count(FALSE),
        replayed=held,
        open=count((OPEN,)),
        refused=tuple(one for one in outcomes if one.reason is not None),
        stages=stages,
        hashes=hashes,
        exported=replayed,
    )
