"""Prints a network's hash, as certificates name it.

`python -m eval.network --saved_model=DIR`, or `robustra hash`. The network is a SavedModel that
training wrote, a Keras model (`--model_file`), or published weights with their architecture. The
certificates of another network are then refused:

    python -m eval.check CERT --network_sha256=$(python -m eval.network --saved_model=DIR)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from robustra_tf.backend import BackendError, require_tensorflow_backend
from robustra_tf.cli.program import Program

from .subject import Source

PROGRAM = Program("eval.network")


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the hash of the network that the command line names; returns the exit code."""
    given = PROGRAM.read(Source, __doc__, arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        require_tensorflow_backend()
        from robustra_tf import graph
        from robustra_tf.evidence.network import network_sha256

        from . import inputs

        print(network_sha256(graph.build(inputs.load_network(given))))
    except (ValueError, OSError, BackendError) as error:
        return PROGRAM.refuse(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
