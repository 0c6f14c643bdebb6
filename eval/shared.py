"""A stage whose batches are decided by the workers of a pool, which hold the network themselves.

A worker reads the network from the bytes that it is sent, makes the stages that it is asked for,
and keeps them with what they have compiled. What it decides is what the stage decides here: a
verdict does not depend on who found it.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import keras
import numpy as np

from robustra_tf.cli import settings
from robustra_tf.intake.precision import full_precision
from robustra_tf.storage import fingerprint

from . import inputs, stages
from .cascade import Decisions, Examples, Stage
from .config import Config
from .milp import Milp
from .rows import Status
from .subject import Source
from .workers import LostError, Orders, OverrunError, Pool, Result, StageError

#: Seconds beyond twice its time after which the worker of an example of `milp` counts as stalled:
#: what is under way when the time is over is brought to its end.
GRACE = 60.0


class Packed(NamedTuple):
    """A network's file or folder as it is sent.

    Attributes:
      name: of the file or folder.
      files: of each file its path below, and its content; of a file alone the path is empty.
    """

    name: str
    files: tuple[tuple[str, bytes], ...]

    @classmethod
    def of(cls, source: Source) -> Self:
        """Reads all of it; of a run that trained a pair, its two networks."""
        place = source.place
        if not place.is_dir():
            return cls(place.name, (("", place.read_bytes()),))
        homes = [place / "f", place / "g"] if source.flag == "pair" else [place]
        files = sorted(file for home in homes for file in home.rglob("*") if file.is_file())
        return cls(
            place.name, tuple((str(file.relative_to(place)), file.read_bytes()) for file in files)
        )

    def unpack(self, home: Path) -> Path:
        """Writes it into a folder; gives its place."""
        place = home / self.name
        for name, content in self.files:
            file = place / name if name else place
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        return place


class Workers(NamedTuple):
    """A pool that knows an evaluation.

    Attributes:
      pool: that decides.
      begin: what each worker begins with.
    """

    pool: Pool
    begin: tuple

    @classmethod
    def of(cls, pool: Pool, config: Config, model: keras.Model) -> Self:
        """A pool for an evaluation, whose network each worker is sent."""
        digest = fingerprint.weights_sha256(model)
        return cls(pool, (_begin, (config, Packed.of(config), digest)))


class Shared:
    """A stage as `workers` decide it; its batches come in any order.

    Their seconds add up to more than passed. A batch that workers were lost on is taken apart, and
    the example that it was is left UNKNOWN, with the reason.
    """

    def __init__(self, stage: Stage, config: Config, workers: Workers):
        self.name, self.batch_size = stage.name, stage.batch_size
        self._workers, self._config, self._eps = workers, config, config.eps

    def at(self, eps: float) -> Self:
        """The same stage for another radius; the two share what workers have compiled."""
        other = copy.copy(self)
        other._eps = eps
        return other

    def run(self, batches: Iterable[Examples]) -> Iterator[Decisions]:
        """Decides the batches, in any order.

        Raises:
          StageError: a worker failed or died; the text says what it said.
        """
        orders = Orders(self._workers.begin, self._limit)
        lost: list[Examples] = []
        for batch, result in self._workers.pool.share_out(
            batches, orders, _decide, lambda batch: (self.name, self._eps, batch)
        ):
            if result.error not in (LostError, OverrunError):
                yield self._decided(batch, result)
            elif len(batch) == 1:
                yield _undecided(batch, result.text)
            else:
                lost.append(batch)
        if lost:
            yield from self.run(b.take(np.array([i])) for b in lost for i in range(len(b)))

    def _decided(self, batch: Examples, result: Result) -> Decisions:
        first, last = int(batch.indices[0]), int(batch.indices[-1])
        name = f"example {first}" if first == last else f"examples {first} to {last}"
        try:
            return result(name)._replace(examples=batch)
        except StageError as error:
            raise StageError(f"{self.name}: {error}") from error

    def _limit(self, batch: Examples) -> float:
        if self.name != "milp":  # a bound takes what it takes
            return math.inf
        return 2 * self._config.time_limit + GRACE


def out(
    made: Iterable[Stage], pool: Pool | None, config: Config, model: keras.Model
) -> list[Stage]:
    """Stages as they are run: those that are worth it by a pool's workers.

    A cluster takes all but `clean`, for what the others take outweighs the way; processes of this
    machine take `milp`, for the others use all of its cores as it is, unless they have to prove.
    """
    made = list(made)
    wanted = ("milp",) if config.cluster is None else ("pgd", *stages.BOUNDS, "milp")
    if config.proofs is not None:  # to prove takes longer than to bound
        wanted = (*stages.BOUNDS, *wanted)
    if pool is None or not any(stage.name in wanted for stage in made):
        return made
    workers = Workers.of(pool, config, model)
    return [Shared(s, config, workers) if s.name in wanted else s for s in made]


def milp(config: Config, model: keras.Model, pool: Pool | None) -> Milp | Shared:
    """The complete stage of an evaluation, here or by a pool's workers."""
    made = Milp(config, model)
    return made if pool is None else Shared(made, config, Workers.of(pool, config, model))


def _undecided(batch: Examples, reason: str) -> Decisions:
    return Decisions(batch, [Status.UNKNOWN], None, None, None, 0.0, reason=[reason])


@dataclasses.dataclass
class _Worker:
    """What a worker process knows: its orders, and its network and stages once it has made them."""

    config: Config | None = None
    packed: Packed | None = None
    weights_sha256: str = ""
    model: keras.Model | None = None
    stages: dict[str, Any] = dataclasses.field(default_factory=dict)


_worker = _Worker()


def _begin(config: Config, packed: Packed, weights_sha256: str) -> None:
    """Begins a worker; the network is read with the first example, where errors are told."""
    global _worker
    # What it held of another evaluation is not kept.
    _worker = _Worker(dataclasses.replace(config, workers=1), packed, weights_sha256)


@full_precision()
def _decide(name: str, eps: float, batch: Examples) -> Decisions:
    """What a stage says of a batch, without the batch: the answer travels."""
    if _worker.model is None:
        _worker.model = _read()
    config = settings.known("config", _worker.config)
    if name not in _worker.stages:
        (_worker.stages[name],) = stages.make(
            dataclasses.replace(config, stages=(name,)), _worker.model
        )
    stage = _worker.stages[name]
    if eps != config.eps:
        stage = stage.at(eps)
    (decisions,) = stage.run([batch])
    return decisions._replace(examples=None)


def _read() -> keras.Model:
    config = settings.known("config", _worker.config)
    packed = settings.known("network", _worker.packed)
    with tempfile.TemporaryDirectory() as home:
        place = packed.unpack(Path(home))
        model = inputs.load_network(dataclasses.replace(config, **{config.flag: place}))
    found = fingerprint.weights_sha256(model)
    if found != _worker.weights_sha256:
        expected = _worker.weights_sha256
        raise ValueError(
            "the network's file has changed since the evaluation began: expected weights with the "
            f"sha256 {expected[:12]}, got {found[:12]}"
        )
    return model
