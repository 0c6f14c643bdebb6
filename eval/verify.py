"""Answers whether networks in ONNX have properties in VNN-LIB: one, or a whole benchmark.

    python -m eval.verify NET.onnx PROP.vnnlib --timeout=60 --witness=FILE --proof=FILE
    python -m eval.verify --instances=instances.csv --out=DIR --expected=verdicts.csv
    python -m eval.verify QUERY.vnnlib --network=NAME=NET.onnx --timeout=60

or `robustra verify`. Printed is `unsat` (proven), `sat` (a counterexample, replayed by
onnxruntime), `unknown` or `timeout`, as VNN-COMP defines them; `--witness` keeps the counterexample
in its format, `--proof` what `robustra check` checks. The third form is that of VNN-LIB 2.0's
standard, whose words and assignments it prints. The second goes through lists of instances, or a
folder of benchmarks: what is answered is on disk before the next, `--resume` goes on, and a table
says what agrees with `--expected`.

Exit codes: 0 answered, whatever the answer, 1 broke off, 2 cannot be run as it stands, 3 stopped by
a signal, 5 an answer contradicts `--expected`.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from robustra_tf.backend import BackendError
from robustra_tf.cli import command, settings
from robustra_tf.cli.program import Program
from robustra_tf.cli.settings import Range, SettingError
from robustra_tf.cli.stopping import Exit, Stop, Stopped
from robustra_tf.storage.files import write_atomically
from robustra_tf.vnncomp import instances, tables
from robustra_tf.vnncomp.answers import Answer

from . import benchmark, clustered, dialect, page, pools, standing
from .benchmark import Benchmark
from .clustered import Clustered
from .standing import Standing
from .workers import StageError

PROGRAM = Program("eval.verify")
#: Seconds of one question, where none are given.
SECONDS = 60.0
_BENCHMARKS = "Benchmarks"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verify:
    """The command's settings."""

    files: tuple[Path, ...] = command.setting(
        "NET.onnx PROP.vnnlib, each perhaps with .gz; or QUERY.vnnlib with --network",
        (),
        operands="FILE",
        otherwise="--instances",
    )
    network: str | None = command.setting(
        "NAME=NET.onnx, the network that a query of VNN-LIB 2.0 calls NAME", None
    )
    timeout: float | None = command.setting(
        "seconds; of a benchmark, that no instance is given more than",
        None,
        range=Range(0, open_low=True),
        otherwise=f"{SECONDS:g}, of a benchmark what its list allows",
    )
    witness: Path | None = command.setting("file for the counterexample, where one is found", None)
    proof: Path | None = command.setting(
        "file for the proof of the answer, which robustra check checks", None
    )

    instances: tuple[Path, ...] = command.setting(
        "lists of instances (instances.csv), or a folder of folders with one each",
        (),
        topic=_BENCHMARKS,
        otherwise="one question",
    )
    out: Path | None = command.setting(
        "folder of verdicts.csv, witnesses, report.html and ledger.csv", None, topic=_BENCHMARKS
    )
    expected: Path | None = command.setting(
        "table of agreed verdicts: columns onnx, vnnlib, verdict", None, topic=_BENCHMARKS
    )
    workers: int = command.setting("processes that answer", 1, range=Range(1), topic=_BENCHMARKS)
    cluster: str | None = command.same(Clustered, "cluster")
    tls_ca_file: Path | None = command.same(Clustered, "tls_ca_file")
    tls_cert: Path | None = command.same(Clustered, "tls_cert")
    tls_key: Path | None = command.same(Clustered, "tls_key")
    insecure: bool = command.same(Clustered, "insecure")
    resume: bool = command.setting("go on with the run in --out", False, topic=_BENCHMARKS)
    overwrite: bool = command.setting("replace the verdicts in --out", False, topic=_BENCHMARKS)

    def __post_init__(self):
        command.check(self)
        clustered.check(self)
        if self.instances:
            self._check_run()
        else:
            self._check_question()

    def _check_run(self) -> None:
        for name in ("files", "network", "witness", "proof"):
            if getattr(self, name):
                raise SettingError("instances", f"none of {name} beside it", getattr(self, name))
        if self.out is None:
            raise SettingError("out", "a folder for the verdicts", None)
        settings.output_directory("out", self.out)
        if self.resume and self.overwrite:
            raise SettingError("overwrite", "one of --resume and --overwrite", True)

    def _check_question(self) -> None:
        for name in ("out", "expected", "cluster", "resume", "overwrite"):
            if getattr(self, name):
                raise SettingError(name, "--instances with it", getattr(self, name))
        wanted = 2 if self.network is None else 1
        if len(self.files) != wanted:
            forms = "NET.onnx PROP.vnnlib", "QUERY.vnnlib with --network"
            given = " ".join(map(str, self.files)) or "none"
            raise SettingError("files", forms[wanted == 1], given)
        if self.network is not None and not all(self.network.partition("=")[::2]):
            raise SettingError("network", "NAME=NET.onnx", self.network)
        for name in ("witness", "proof"):
            self._check_file(name, getattr(self, name))

    def _check_file(self, name: str, file: Path | None) -> None:
        if file is None:
            return
        if file.is_dir() or not file.name:
            raise SettingError(name, "a file, not a folder", str(file))
        if not (home := file.absolute().parent).is_dir():
            wanted = f"a file whose folder is there ({home} is none)"
            raise SettingError(name, wanted, str(file))


def main(arguments: Sequence[str] | None = None) -> int:
    """Answers what the command line asks; returns the process's exit code."""
    start = time.monotonic()
    given = PROGRAM.read(Verify, __doc__, arguments)
    words = sys.argv[1:] if arguments is None else arguments
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with Stop(PROGRAM.say) as stop:
        stop.nothing_to_lose("nothing was decided yet")
        try:
            _require()
            if sum(word.partition("=")[0] == "--network" for word in words) > 1:
                raise SettingError("network", "one network", "several")
            return _run(given, stop) if given.instances else _one(given, start)
        except (ValueError, OSError, ImportError, BackendError) as error:
            return PROGRAM.refuse(error)


def _require() -> None:
    for name in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            raise ImportError(f"needs the package {name}: pip install 'robustra-tf[onnx]'")


def _one(given: Verify, start: float) -> Exit:
    seconds = given.timeout or SECONDS
    if given.network is not None:
        (path,) = map(_found, given.files)
        query = dialect.Query.read(path, given.network)
        answer = _answer(_found(query.network), path, seconds, start, given.proof)
        text = query.told(answer)
    else:
        network, path = map(_found, given.files)
        answer = _answer(network, path, seconds, start, given.proof)
        text = f"{answer.word}\n"
    if answer.reason:
        PROGRAM.say(answer.reason)
    sys.stdout.write(text)
    sys.stdout.flush()
    if given.witness is not None and answer.counterexample is not None:
        try:
            write_atomically(given.witness, answer.counterexample.text)
        except OSError as error:
            PROGRAM.say(f"the answer stands, its witness was not written: {error}")
            return Exit.FAILED
    return Exit.DONE


def _found(path: Path) -> Path:
    """The file that is named, or the one packed or unpacked beside it."""
    return path if path.exists() else instances.located(path.parent, path.name)


def _answer(network: Path, query: Path, seconds: float, start: float, proof: Path | None) -> Answer:
    benchmark.imported()
    from robustra_tf.vnncomp.networks import Network

    return Network(network).answer(query, seconds, start, proof)


def _run(given: Verify, stop: Stop) -> Exit:
    agreed = None if given.expected is None else tables.read(given.expected)
    out = settings.known("out", given.out)
    runs = _prepared(given.instances, out, given.timeout)
    _check_expected(runs, agreed)
    if len(runs) > 1:
        out.mkdir(exist_ok=True)
    ledgers = [benchmark.open_ledger(run, given.resume, given.overwrite) for run in runs]
    stop.keeps(f"what is answered stays in {out}, --resume goes on from it")
    standings = []
    try:
        with pools.opened(given, PROGRAM.say) as pool:
            for run, ledger in zip(runs, ledgers, strict=True):
                rows = benchmark.run(run, ledger, pool, stop)
                done = Standing.of(run.name, rows, agreed)
                standings.append(done)
                for line in standing.contradictions([done], agreed):
                    PROGRAM.say(line)
                print(page.written(functools.partial(_page, run.out, done, agreed), "--resume"))
    except (Stopped, StageError) as error:
        if stop.requested:
            PROGRAM.say("stopped; --resume goes on from here")
            return Exit.STOPPED
        PROGRAM.say(str(error))
        return Exit.FAILED
    for line in standing.contradictions(standings, agreed):
        print(line)
    print(standing.table(standings), flush=True)
    return Exit.CONTRADICTED if any(each.wrong for each in standings) else Exit.DONE


def _page(out: Path, done: Standing, agreed: tables.Table | None) -> Path:
    from . import benchmark_page

    return benchmark_page.build(out, done, agreed)


def _prepared(given: Sequence[Path], home: Path, most: float | None) -> list[Benchmark]:
    places = list(_lists(given))
    several = len(places) > 1
    runs = []
    for place in places:
        name = place.resolve().parent.name
        out = home / name if several else home
        if out in [run.out for run in runs]:
            raise SettingError("instances", "folders of different names", name)
        runs.append(benchmark.prepare(place, out, most))
    return runs


def _lists(given: Sequence[Path]) -> Iterator[Path]:
    for place in given:
        if not place.is_dir():
            yield place
            continue
        found = sorted(place.glob(f"*/{instances.NAME}"))
        if not found:
            raise SettingError("instances", f"a folder of folders with {instances.NAME}", place)
        yield from found


def _check_expected(runs: Sequence[Benchmark], agreed: tables.Table | None) -> None:
    """Refuses a table that speaks of no instance of a benchmark."""
    if agreed is None:
        return
    for run in runs:
        keys = {tables.Key.of(*question.instance[:2]) for question in run.questions}
        if not keys & agreed.results.keys():
            raise SettingError("expected", f"verdicts of instances of {run.name}", "none of them")


if __name__ == "__main__":
    sys.exit(main())
