"""Prints a network's hash, as certificates name it: `python -m eval.network --saved_model=DIR`.

The network is a SavedModel that training wrote, or published weights with their architecture. The
certificates of another network are then refused:

    python -m eval.check CERT --network_sha256=$(python -m eval.network --saved_model=DIR)
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from robustra_tf import settings
from robustra_tf.backend import BackendError, require_tensorflow_backend

BAD_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the hash of the network that the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(prog="eval.network", description=__doc__, allow_abbrev=False)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--saved_model", type=Path, help="directory that training wrote")
    source.add_argument("--weights", type=Path, help="published weights, a .mat file; with --model")
    parser.add_argument("--model", choices=tuple(settings.MODEL_INPUTS), help="of --weights")
    parser.add_argument("--normalised", action="store_true", help="as for eval.main")
    given = parser.parse_args(arguments)
    if (given.weights is None) != (given.model is None):
        parser.error("--model goes with --weights")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        require_tensorflow_backend()
        from robustra_tf import export, graph, models, proofs, published

        if given.weights is None:
            model = export.load(given.saved_model)
        else:
            model = models.build(given.model, seed=0)
            published.load_mat(model, given.weights, normalised=given.normalised)
        print(proofs.network_sha256(graph.build(model)))
    except (ValueError, OSError, BackendError) as error:
        print(f"eval.network: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_USAGE
    return 0


if __name__ == "__main__":
    sys.exit(main())
