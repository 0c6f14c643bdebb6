"""Checks a certificate.

`python -m eval.check CERT`, or `robustra check CERT`. The file is what `robustra_tf.certify(...,
save=CERT)` writes. It is derived anew with NumPy alone, by code that shares nothing with the
library (`eval.checker`), and accepted, or else the first layer that does not hold is named.
`docs/certificates.md` says what acceptance means.

Exit codes: 0 accepted, 1 rejected, 2 a file that cannot be read or a wrong command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .checker import claim, derive, rejection

ACCEPTED, REJECTED, BAD_USAGE = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks the certificate that the command line names; returns the process's exit code."""
    called = sys.argv[0] if sys.argv[0].startswith("robustra ") else "eval.check"
    parser = argparse.ArgumentParser(prog=called, description=__doc__, allow_abbrev=False)
    parser.add_argument("certificate", metavar="CERT", help="the file to check")
    parser.add_argument(
        "--network_sha256",
        help="the hash that its network must have, which `python -m eval.network` prints",
    )
    given = parser.parse_args(arguments)
    try:
        found = claim.read(given.certificate)
    except claim.UnreadableError as error:
        print(f"{called}: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_USAGE
    try:
        derived = derive.check(found, given.network_sha256)
    except rejection.RejectedError as error:
        print(f"rejected: {error}")
        return REJECTED
    whole = "certified" if found.labels is not None else "verified"
    own = "correct" if found.labels is not None else "safe in the middle"
    print(
        f"accepted: {len(found.x)} images, {found.inputs}, {found.mode}\n"
        f"  {int(derived.certified.sum())} {whole}, {int(found.safe.sum())} {own}\n"
        f"  network {found.sha256}"
    )
    return ACCEPTED


if __name__ == "__main__":
    sys.exit(main())
