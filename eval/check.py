"""Checks a certificate, a proof of verdicts, or every verdict of an evaluation.

`python -m eval.check FILE`, or `robustra check FILE`. The file is what `robustra_tf.certify(...,
save=FILE)` writes, or a proof of other verdicts. It is derived anew with NumPy alone, by code that
shares nothing with the library (`eval.checker`), and accepted, or else the first layer or leaf that
does not hold is named. With `--run=EVAL_DIR` all proofs of an evaluation are, each against what its
ledger says. `docs/certificates.md` says what acceptance means.

Exit codes: 0 accepted, 1 rejected, 2 a file that cannot be read or a wrong command.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .checker import (
    claim,
    derive,
    evaluation,
    exported,
    files,
    pair,
    pair_claim,
    proof,
    rejection,
    runs,
    stored,
)

ACCEPTED, REJECTED, BAD_USAGE = 0, 1, 2
#: What `--run` leaves in the evaluation's folder, for its page.
CHECKED = "checked.json"
#: Refused examples that are told one by one.
_TOLD = 10
# Seconds between two states of the bar: on a terminal, and in a file.
_OFTEN, _SELDOM = 0.3, 30.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks what the command line names; returns the process's exit code."""
    called = sys.argv[0] if sys.argv[0].startswith("robustra ") else "eval.check"
    parser = _parser(called)
    given = parser.parse_args(arguments)
    if (given.certificate is None) == (given.run is None):
        parser.error("one of FILE and --run=EVAL_DIR is needed")
    if given.exact and given.float32:
        parser.error("--exact is about real numbers: without --float32")
    if given.proofs is not None and given.run is None:
        parser.error("--proofs is about --run")
    options = files.Options(given.float32, given.exact, given.network_sha256)
    try:
        if given.weights is not None and given.run is None:
            print(_bound(proof.read(given.certificate), given.weights))
        if given.run is not None:
            return _run(given, options)
        if proof.is_proof(given.certificate):
            text = _proof(given.certificate, options)
        elif pair_claim.is_of(given.certificate):
            text = _pair(given)
        else:
            text = _certificate(given)
    except claim.UnreadableError as error:
        print(f"{called}: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_USAGE
    except rejection.RejectedError as error:
        print(f"rejected: {error}")
        return REJECTED
    print(text)
    return ACCEPTED


def _parser(called: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=called, description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "certificate", metavar="FILE", nargs="?", help="the certificate or proof to check"
    )
    parser.add_argument(
        "--network_sha256",
        help="the hash that its network must have, which `python -m eval.network` prints; of a "
        "pair two, a comma between",
    )
    parser.add_argument(
        "--float32",
        action="store_true",
        help="a proof must hold for the float32 forward pass too, in any order of sums",
    )
    parser.add_argument(
        "--exact",
        action="store_true",
        help="derive a small proof in fractions, which round nothing",
    )
    parser.add_argument(
        "--weights",
        metavar="NET",
        help="a .keras, .h5 or .onnx file or a SavedModel in which a proof's weights must be, and "
        "by which, with --run, counterexamples are replayed; default of these: what was evaluated",
    )
    parser.add_argument("--run", metavar="EVAL_DIR", help="check all verdicts of an evaluation")
    parser.add_argument(
        "--proofs",
        metavar="DIR",
        help="the folder of the evaluation's proofs; default: what its results say, or "
        f"EVAL_DIR/{evaluation.FOLDER}",
    )
    parser.add_argument(
        "--processes",
        type=_processes,
        default=os.cpu_count() or 1,
        help="that check a run side by side; default: one for each processor",
    )
    return parser


def _processes(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError
    return count


def _bound(read: proof.Proof | proof.Read, path: str | Path) -> str:
    """Compares the weights of a proof with those of another file."""
    count, there = stored.bind(read.nodes, read.weights, path)
    return f"weights: all {count} are among the {there} arrays of {path}, bit by bit"


def _folder(out: Path, proofs: str | None) -> Path:
    """Where an evaluation's proofs are."""
    folder = Path(proofs) if proofs else out / (evaluation.read(out).folder or evaluation.FOLDER)
    if not folder.is_dir():
        raise claim.UnreadableError(f"{folder}: there are no proofs")
    return folder


def _proof(path: str, options: files.Options) -> str:
    read, found = files.check(path, options)
    counts: dict[str, int] = dict.fromkeys((proof.VERIFIED, proof.FALSIFIED, proof.OPEN), 0)
    for one in found:
        counts[one.verdict] += 1
    sets = sorted({one.inputs for one in read.examples})
    shown = ", ".join(sets[:2]) + (f" and {len(sets) - 2} others" if len(sets) > 2 else "")
    return (
        f"accepted: {len(found)} examples, {shown}, {_mode(options)}\n"
        f"  {counts[proof.VERIFIED]} verified ({sum(one.leaves for one in found)} leaves), "
        f"{counts[proof.FALSIFIED]} falsified, {counts[proof.OPEN]} open\n"
        f"  network {read.sha256}"
    )


def _mode(options: files.Options) -> str:
    what = "fractions" if options.exact else "real numbers"
    return f"{what} and float32" if options.float32 else what


def _pair(given: argparse.Namespace) -> str:
    found = pair_claim.read(given.certificate)
    _refuse_options_of_proofs(given)
    derived = pair.check(found, given.network_sha256)
    count, f = len(found.mix), found.f
    return (
        f"accepted: a pair, {count} images, {f.inputs}, {found.method}, {f.mode}\n"
        f"  {int(derived.certified.sum())} certified: no input makes both networks answer one "
        f"wrong class; {int(derived.answered.sum())} always answered\n"
        f"  networks {f.sha256},{found.g.sha256}"
    )


def _refuse_options_of_proofs(given: argparse.Namespace) -> None:
    if given.exact or given.float32:
        raise claim.UnreadableError(
            f"{given.certificate}: --exact and --float32 are for proofs alone"
        )


def _certificate(given: argparse.Namespace) -> str:
    found = claim.read(given.certificate)
    _refuse_options_of_proofs(given)
    derived = derive.check(found, given.network_sha256)
    whole = "certified" if found.labels is not None else "verified"
    own = "correct" if found.labels is not None else "safe in the middle"
    return (
        f"accepted: {len(found.x)} images, {found.inputs}, {found.mode}\n"
        f"  {int(derived.certified.sum())} {whole}, {int(found.safe.sum())} {own}\n"
        f"  network {found.sha256}"
    )


def _run(given: argparse.Namespace, options: files.Options) -> int:
    """Checks an evaluation, prints what was found and leaves it for the page."""
    out = Path(given.run)
    claims = evaluation.read(out)
    folder = _folder(out, given.proofs)
    network = _network(given.weights, claims.source)
    if network is not None:
        print(_bound(proof.network(folder / proof.SHARED), network))
    begun, watch = time.monotonic(), _bar(len(claims.lines))
    work = runs.Work(given.processes, network)
    found = runs.check(claims, folder, options, work, watch)
    seconds = time.monotonic() - begun
    for one in found.refused[:_TOLD]:
        print(f"rejected: example {one.index}: {one.reason}")
    if len(found.refused) > _TOLD:
        print(f"rejected: {len(found.refused) - _TOLD} more")
    print(_table(found, options, seconds))
    content = found._asdict() | {"mode": _mode(options), "holds": found.holds}
    content |= {"refused": [one._asdict() for one in found.refused], "wall": round(seconds, 3)}
    content |= {"exported": found.exported._asdict()}
    (out / CHECKED).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return ACCEPTED if found.holds else REJECTED


def _network(weights: str | None, source: str | None) -> Path | None:
    """By which network counterexamples are replayed."""
    if weights is not None or source is None:
        return None if weights is None else Path(weights)
    place = Path(source)
    there = place.is_dir() or (place.is_file() and place.suffix in stored.SUFFIXES)
    return place if there else None


def _table(found: runs.Summary, options: files.Options, seconds: float) -> str:
    """What was found, as a table."""
    data = "all images" if "data" in found.hashes else "not all images have files"
    lines = [
        f"{'accepted' if found.holds else 'rejected'}: {_mode(options)}, {seconds:.1f} s",
        f"  {found.verified} verified, proofs accepted: {found.accepted}",
        f"  {found.falsified} falsified or misclassified, counterexamples replayed: "
        f"{found.replayed} in float64, {_told(found.exported)}",
        f"  {found.open} open",
        f"  {'stage':12}{'proofs':>8}{'kB each':>10}{'largest':>10}{'leaves':>10}{'ms each':>10}",
    ]
    for stage, own in found.stages.items():
        count = own["proofs"]
        lines.append(
            f"  {stage:12}{count:8}{own['bytes'] / count / 1000:10.1f}"
            f"{own['largest'] / 1000:10.1f}{own['leaves']:10}{1000 * own['seconds'] / count:10.1f}"
        )
    lines += [f"  {name} {value}" for name, value in found.hashes.items()]
    return "\n".join([*lines, f"  data: {data}"])


def _told(exported: exported.Replayed) -> str:
    """What the exported network said of counterexamples."""
    if exported.reason is not None:
        return f"none by an exported network ({exported.reason})"
    return f"{exported.count} by {exported.network} ({exported.runtime})"


def _bar(total: int) -> Callable[[runs.Outcome], None]:
    """Shows on the error stream how far a run is."""
    begun = shown = time.monotonic()
    counts = {"accepted": 0, "refused": 0, "without": 0}
    live = sys.stderr.isatty()

    def watch(outcome: runs.Outcome) -> None:
        nonlocal shown
        claimed = "without" if not outcome.there else "accepted"
        counts["refused" if outcome.reason is not None else claimed] += 1
        done, now = sum(counts.values()), time.monotonic()
        if now - shown < (_OFTEN if live else _SELDOM) and done < total:
            return
        shown = now
        left = (now - begun) / done * (total - done)
        width = 20 * done // total
        text = f"check: |{'#' * width:20}| {done}/{total} [{left:.0f} s left"
        text += "".join(f", {name}={count}" for name, count in counts.items()) + "]"
        end = "\n" if done == total or not live else ""
        print(f"\r\x1b[K{text}" if live else text, end=end, file=sys.stderr, flush=True)

    return watch


if __name__ == "__main__":
    sys.exit(main())
