"""Checks a certificate, or a proof of verdicts.

`python -m eval.check FILE`, or `robustra check FILE`. The file is what `robustra_tf.certify(...,
save=FILE)` writes, or a proof of other verdicts. It is derived anew with NumPy alone, by code that
shares nothing with the library (`eval.checker`), and accepted, or else the first layer or leaf that
does not hold is named. `docs/certificates.md` says what acceptance means.

Exit codes: 0 accepted, 1 rejected, 2 a file that cannot be read or a wrong command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .checker import claim, derive, files, proof, rejection

ACCEPTED, REJECTED, BAD_USAGE = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks the file that the command line names; returns the process's exit code."""
    called = sys.argv[0] if sys.argv[0].startswith("robustra ") else "eval.check"
    parser = argparse.ArgumentParser(prog=called, description=__doc__, allow_abbrev=False)
    parser.add_argument("certificate", metavar="FILE", help="the certificate or proof to check")
    parser.add_argument(
        "--network_sha256",
        help="the hash that its network must have, which `python -m eval.network` prints",
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
    given = parser.parse_args(arguments)
    if given.exact and given.float32:
        parser.error("--exact is about real numbers: without --float32")
    try:
        if proof.is_proof(given.certificate):
            options = files.Options(given.float32, given.exact, given.network_sha256)
            text = _proof(given.certificate, options)
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


def _proof(path: str, options: files.Options) -> str:
    read, found = files.check(path, options)
    counts: dict[str, int] = dict.fromkeys((proof.VERIFIED, proof.FALSIFIED, proof.OPEN), 0)
    for one in found:
        counts[one.verdict] += 1
    sets = sorted({one.inputs for one in read.examples})
    shown = ", ".join(sets[:2]) + (f" and {len(sets) - 2} others" if len(sets) > 2 else "")
    what = "fractions" if options.exact else "real numbers"
    return (
        f"accepted: {len(found)} examples, {shown}, "
        f"{what}{' and float32' if options.float32 else ''}\n"
        f"  {counts[proof.VERIFIED]} verified ({sum(one.leaves for one in found)} leaves), "
        f"{counts[proof.FALSIFIED]} falsified, {counts[proof.OPEN]} open\n"
        f"  network {read.sha256}"
    )


def _certificate(given: argparse.Namespace) -> str:
    found = claim.read(given.certificate)
    if given.exact or given.float32:
        raise claim.UnreadableError(
            f"{given.certificate}: --exact and --float32 are for proofs alone"
        )
    derived = derive.check(found, given.network_sha256)
    whole = "certified" if found.labels is not None else "verified"
    own = "correct" if found.labels is not None else "safe in the middle"
    return (
        f"accepted: {len(found.x)} images, {found.inputs}, {found.mode}\n"
        f"  {int(derived.certified.sum())} {whole}, {int(found.safe.sum())} {own}\n"
        f"  network {found.sha256}"
    )


if __name__ == "__main__":
    sys.exit(main())
