"""What a worker of Dask's runs: the jobs of a task, one after the other, in its one thread."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import pickle
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import robustra_tf

from .workers import LostError, RefusedError, Result, StageError, one_thread

#: Packages whose versions verdicts and their last digits depend on.
_PACKAGES = ("tensorflow", "keras", "numpy", "highspy")
#: Seconds between two looks at which job of a task a worker is at.
LOOK = 1.0
#: Bytes of an answer that is told as news, for which it need not be asked.
_BRIEF = 2**16


class Handed(NamedTuple):
    """What each worker is given before its first task of a run.

    Attributes:
      key: of the run.
      begin: a function and its arguments, or None: pickled, for the scheduler reads what it passes
        on, and need not import TensorFlow for it.
      versions: what the worker must have.
    """

    key: str
    begin: bytes
    versions: dict[str, str]


class Task(NamedTuple):
    """Jobs that are sent together.

    Attributes:
      number: of the task.
      asked: a function and its arguments for each job, pickled as above.
      topic: where the answer is told, and jobs that take long are.
      timed: whether these are, for there are limits.
    """

    number: int
    asked: bytes
    topic: str
    timed: bool


class Reply(NamedTuple):
    """What a worker says of a task.

    Attributes:
      worker: its address.
      results: of each job.
      seconds: that all took.
      refused: why it does no such task; empty where it has.
    """

    worker: str
    results: Sequence[Result]
    seconds: float
    refused: str = ""


@functools.cache
def versions() -> dict[str, str]:
    """What has to be the same wherever one evaluation is computed, by name."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    found |= {name: metadata.version(name) for name in _PACKAGES}
    return found | {"robustra_tf": robustra_tf.__version__, "code": _code_sha256()}


def _code_sha256() -> str:
    """Hash of the library's and this program's own code: 12 hexadecimal digits."""
    digest = hashlib.sha256()
    library, program = Path(robustra_tf.__file__).parent, Path(__file__).parent
    for home in (library, program):
        for file in sorted(home.rglob("*.py")):
            name = file.relative_to(home)
            # A wheel has the programs inside of the library.
            if home is program or name.parts[0] != "programs":
                digest.update(f"{name}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def hand(handed: Handed) -> Handed:
    """A task that others need: made anew wherever the worker that held it is lost."""
    return handed


#: The run that this process has begun.
_begun: str | None = None


def do(handed: Handed, task: Task) -> bytes:
    """Does the jobs of a task; a `Reply`, pickled, which is told as well where it is short."""
    from distributed import get_worker

    worker = get_worker()
    answer = pickle.dumps(_reply(worker, handed, task))
    if len(answer) <= _BRIEF:
        worker.log_event(task.topic, [handed.key, task.number, answer])
    return answer


def _reply(worker: Any, handed: Handed, task: Task) -> Reply:
    refused = refusal(handed.versions, worker.state.nthreads) or _begin(handed)
    if refused:
        return Reply(worker.address, (), 0.0, refused)
    start = time.perf_counter()
    work, asked = pickle.loads(task.asked)
    results: list[Result] = []
    told = functools.partial(_told, worker, task, handed.key, len(asked), results)
    with told() if task.timed else contextlib.nullcontext():
        for arguments in asked:
            results.append(outcome(work, arguments))
    return Reply(worker.address, results, time.perf_counter() - start)


@contextlib.contextmanager
def _told(
    worker: Any, task: Task, key: str, jobs: int, results: Sequence[Result]
) -> Iterator[None]:
    """Tells which job the worker is at, once one has lasted from one look to the next.

    To tell of every job costs the program and the scheduler more than handing tasks out does.
    """
    done = threading.Event()

    def tell() -> None:
        seen = told = -1
        while not done.wait(LOOK):
            seen, before = len(results), seen
            if told != seen < jobs and (seen == before or told >= 0):
                worker.log_event(task.topic, [key, task.number, seen, worker.address])
                told = seen

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def refusal(wanted: dict[str, str], threads: int) -> str:
    """What keeps a worker out of a run; empty where nothing does."""
    found = versions()
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            return f"{name}: expected {wanted.get(name)}, got {found.get(name)}"
    if threads != 1:
        return f"threads: expected 1 (dask worker --nthreads=1), got {threads}"
    return ""


def _begin(handed: Handed) -> str:
    """Begins a run in this process, once; why that failed."""
    global _begun
    if _begun != handed.key:
        _begun = None
        try:
            if (begin := pickle.loads(handed.begin)) is not None:
                one_thread()
                function, arguments = begin
                function(*arguments)
        except Exception as error:
            return _line(error)
        _begun = handed.key
    return ""


def outcome(work: Callable[..., Any], arguments: tuple) -> Result:
    """What comes of a job; where memory was short, another worker may have more."""
    try:
        return Result(work(*arguments))
    except RefusedError as error:
        return Result(None, RefusedError, str(error))
    except MemoryError as error:
        return Result(None, LostError, f"out of memory: {_line(error)}")
    except Exception as error:
        short = type(error).__name__ == "ResourceExhaustedError"  # of TensorFlow's
        return Result(None, LostError if short else StageError, _line(error))


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def dask_setup(worker: Any) -> None:
    """Called by Dask where this module is a preload: Ctrl-C is the program's to answer."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
