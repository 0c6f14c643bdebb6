"""Says what queries and networks are read, as VNN-LIB 2.0 asks of a solver.

`python -m eval.supports --onnx-operators`, or `robustra supports --onnx-operators`: one capability
at a time, one answer a line. Source: *The VNN-LIB Standard*, chapters "Solver Command-line
Interface" and "Theories and Logics".
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from robustra_tf.cli import command
from robustra_tf.cli.program import Program
from robustra_tf.cli.stopping import Exit

PROGRAM = Program("eval.supports")


def _operators() -> list[str]:
    from robustra_tf.onnx import node, reading

    del reading  # which registers all of them
    return sorted(node.HANDLERS)


def _opsets() -> list[str]:
    from robustra_tf.onnx import reading

    return [str(version) for version in reading.opsets()]


CAPABILITIES: dict[str, Callable[[], list[str]]] = {
    "--onnx-opset-versions": _opsets,
    "--onnx-element-types": lambda: ["float32", "real"],
    "--onnx-operators": _operators,
    "--vnnlib-versions": lambda: ["2.0", "2.0"],
    "--hidden-node-theories": lambda: ["NH"],
    "--multiple-input-output-theories": lambda: ["SIO"],
    "--multiple-network-theories": lambda: ["SNET"],
    "--multiple-node-comparison-theories": lambda: ["SNC"],
    "--arithmetic-complexity-theories": lambda: ["BND", "OUTC"],
    "--optimised-disjunctive-reasoning": lambda: ["false"],
    "--serialise-assignments": lambda: ["false"],
    "--unsat-proofs": lambda: ["false"],
}


def usage() -> str:
    """The page of `--help`."""
    name = command.called("eval.supports")
    first = f"usage: {'python -m ' * (name == 'eval.supports')}{name} CAPABILITY"
    text = " ".join((__doc__ or "").split("\n\n")[0].split())
    return "\n".join([first, "", text, "", "Capabilities:", *(f"  {c}" for c in CAPABILITIES), ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the capability that the command line asks for; returns the process's exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if command.asks_for_help(given):
        sys.stdout.write(usage())
        return Exit.DONE
    if len(given) != 1 or given[0] not in CAPABILITIES:
        wanted = ValueError(f"expected one of {', '.join(CAPABILITIES)}, got {' '.join(given)!r}")
        return PROGRAM.refuse(wanted)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        found = CAPABILITIES[given[0]]()
    except ImportError as error:
        return PROGRAM.refuse(error)
    sys.stdout.write("".join(f"{line}\n" for line in found))
    return Exit.DONE


if __name__ == "__main__":
    sys.exit(main())
