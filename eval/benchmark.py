"""A benchmark of VNN-COMP, from its list of instances to verdicts, witnesses and a page."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from robustra_tf.cli.settings import SettingError
from robustra_tf.cli.stopping import NEVER, Stop
from robustra_tf.storage.files import hold, write_atomically
from robustra_tf.vnncomp import instances
from robustra_tf.vnncomp.answers import Answer, Word
from robustra_tf.vnncomp.instances import Instance
from robustra_tf.vnncomp.tables import stem

from . import answered, folder
from .answered import Answered
from .ledger import Ledger
from .progress import Progress
from .workers import LostError, Orders, OverrunError, Pool, RefusedError

if TYPE_CHECKING:
    from robustra_tf.vnncomp.networks import Network

#: Seconds after its own that an instance may go on for, in a process of several.
GRACE = 10.0
#: What the bar counts.
_SHOWN = (Word.UNSAT, Word.SAT, Word.TIMEOUT, Word.UNKNOWN)
_STAGE = "verify"


class Question(NamedTuple):
    """An instance of a list, its files found.

    Attributes:
      index: position in the list.
      instance: as the list has it.
      network, query: its files.
      seconds: that it is given.
    """

    index: int
    instance: Instance
    network: Path
    query: Path
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A run over a list of instances.

    Attributes:
      name: of the benchmark: its folder's.
      out: folder of what is found.
      questions: in the list's order.
      identity: what the verdicts depend on.
    """

    name: str
    out: Path
    questions: tuple[Question, ...]
    identity: dict[str, Any]


def prepare(place: Path, out: Path, most: float | None = None) -> Benchmark:
    """Reads a list and finds its files; computes nothing.

    Args:
      place: the list, `instances.csv`.
      out: folder of what is found.
      most: seconds that no instance is given more than.

    Raises:
      OSError, ValueError: the list cannot be read, or names a file that is not there.
    """
    home = place.resolve().parent
    questions = tuple(
        Question(
            index,
            each,
            instances.located(home, each.network),
            instances.located(home, each.query),
            each.seconds if most is None else min(most, each.seconds),
        )
        for index, each in enumerate(instances.read(place))
    )
    identity = {
        "instances": [[*question.instance[:2], question.seconds] for question in questions],
        "files_sha256": _sha256(sorted({file for q in questions for file in q[2:4]})),
    }
    return Benchmark(name=home.name, out=out, questions=questions, identity=identity)


def _sha256(files: Iterable[Path]) -> str:
    found = hashlib.sha256()
    for file in files:
        found.update(hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()


def open_ledger(benchmark: Benchmark, resume: bool, overwrite: bool) -> Ledger[Answered]:
    """Begins or goes on with a run in its folder, which others are kept out of.

    Raises:
      ValueError, OSError: results of a finished run, another run's or an unfinished ledger, another
        process, a folder that cannot be written.
    """
    out = benchmark.out
    out.mkdir(exist_ok=True)
    hold(out)
    if overwrite:
        folder.clear(out)
    if not resume and (out / answered.NAME).exists():
        wanted = "a folder without verdicts; --overwrite replaces them, --resume goes on"
        raise SettingError("out", wanted, str(out))
    (out / answered.WITNESSES).mkdir(exist_ok=True)
    return Ledger(out, benchmark.identity, resume, Answered)


def run(
    benchmark: Benchmark, ledger: Ledger[Answered], pool: Pool | None, stop: Stop = NEVER
) -> list[Answered]:
    """Answers what the ledger has no row of; gives all rows, in the list's order.

    Networks are taken one after the other, so that each is read once by a process.

    Args:
      benchmark: the run.
      ledger: its ledger, which is finished.
      pool: workers that answer, who find the files at the same places; None for this process.
      stop: asks for an end between two instances.

    Raises:
      Stopped: `stop` asked for it; everything that was answered is recorded.
      StageError: a worker failed or died.
    """
    left = [question for question in benchmark.questions if question.index not in ledger.rows]
    left.sort(key=lambda question: question.network)
    progress = Progress(ledger.rows.values(), f"{benchmark.name}, ", _SHOWN)
    total, todo = len(benchmark.questions), len(left)
    try:
        progress(_STAGE, (), total, todo)
        for question, found in _answers(left, pool):
            row = Answered(
                question.index,
                *question.instance[:2],
                question.seconds,
                found.word,
                found.seconds,
                found.reason,
            )
            _keep(benchmark.out / answered.WITNESSES, question, found)
            ledger.record([row], _STAGE, found.seconds)
            todo -= 1
            stop.nothing_to_lose(None)
            progress(_STAGE, (row,), total, todo)
            stop.check()
    finally:
        progress.close()
        ledger.close()
    ledger.finish()
    rows = [ledger.rows[question.index] for question in benchmark.questions]
    answered.write(benchmark.out, benchmark.name, rows)
    return rows


def _answers(left: list[Question], pool: Pool | None) -> Iterator[tuple[Question, Answer]]:
    if pool is None:
        for question in left:
            imported()
            yield question, _answer(question.network, question.query, question.seconds)
        return
    orders = Orders((imported, ()), lambda question: question.seconds + GRACE)
    for question, result in pool.share_out(left, orders, _checked, _asked):
        try:
            yield question, result(f"instance {question.index}")
        except OverrunError:
            late = f"ended {GRACE:g} seconds after its time"
            yield question, Answer(Word.TIMEOUT, question.seconds + GRACE, late)
        except LostError:
            yield question, Answer(Word.UNKNOWN, 0.0, result.text)


def _asked(question: Question) -> tuple[Path, str, Path, str, float]:
    network, query = question.network, question.query
    return network, _file_sha256(network), query, _sha256([query]), question.seconds


def _checked(
    network: Path, network_sha256: str, query: Path, query_sha256: str, seconds: float
) -> Answer:
    """The answer of a worker, which may be on another machine, with other files."""
    for path, expected, sha256 in (
        (network, network_sha256, _file_sha256),
        (query, query_sha256, lambda path: _sha256([path])),
    ):
        try:
            found = sha256(path)
        except OSError as error:
            raise RefusedError(f"{path}: cannot be read: {error}") from error
        if found != expected:
            raise RefusedError(f"{path}: expected the sha256 {expected}, got {found}")
    return _answer(network, query, seconds)


@functools.lru_cache(maxsize=1)
def _file_sha256(network: Path) -> str:
    return _sha256([network])


def imported() -> None:
    """Imports what answers need before their time counts, and keeps TensorFlow quiet."""
    from robustra_tf.backend import require_tensorflow_backend

    require_tensorflow_backend()
    import tensorflow as tf

    from robustra_tf.vnncomp import networks

    del networks
    # Every network and every form of question is compiled anew, which it would advise against.
    tf.get_logger().setLevel("ERROR")


def _answer(network: Path, query: Path, seconds: float) -> Answer:
    """The answer to one instance, in whichever process; `unknown` where its files are refused."""
    start = time.monotonic()
    try:
        return _network(network).answer(query, seconds, start)
    except (ValueError, OSError) as error:
        reason = str(error)
    except MemoryError:
        raise
    except Exception as error:  # A fault here: one instance less, and not a night.
        reason = f"{type(error).__name__}: {error}"
    return Answer(Word.UNKNOWN, time.monotonic() - start, reason)


@functools.lru_cache(maxsize=1)
def _network(path: Path) -> Network:
    from robustra_tf.vnncomp.networks import Network

    return Network(path)


def _keep(home: Path, question: Question, found: Answer) -> None:
    """Writes a counterexample, under the name that the competition gives it."""
    if found.counterexample is not None:
        name = f"{stem(question.instance.network)}_{stem(question.instance.query)}.counterexample"
        write_atomically(home / name, found.counterexample.text)
