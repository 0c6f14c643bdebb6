"""Writes the whole training step as StableHLO: `python -m benchmarks.export_step --out=DIR`.

`module.mlir` holds the compiled step as text. `io.npz` holds one call of it: `in_0`, `in_1`, ...
are the arguments in the module's order, `out_0`, ... what it returned here. `signature.json` names
them all: the first outputs are the first inputs of the next step, so a program that knows only
PJRT can train with it.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import subjects
from robustra_tf import vocabulary
from robustra_tf.cli import command, settings
from robustra_tf.cli.settings import Range

OPTIMIZERS = ("adam", "sgd")
MODULE, CALL, SIGNATURE = "module.mlir", "io.npz", "signature.json"
_NUMPY = {"f32": "float32", "f64": "float64", "i32": "int32", "i64": "int64", "i1": "bool"}


@dataclasses.dataclass(frozen=True)
class Config:
    """Which step is written, and where."""

    out: str = command.setting("folder to write")
    model: str = command.setting("the network", "mnist_small", choices=vocabulary.SIZED_MODELS)
    method: str = command.setting("robustra or wong", "robustra", choices=subjects.METHODS)
    weights: str = command.setting("random, published, or a .mat file", subjects.RANDOM)
    optimizer: str = command.setting("adam or sgd (momentum 0.9)", "adam", choices=OPTIMIZERS)
    lr: float = command.setting("learning rate of the saved call", 0.001)
    eps: float = command.setting("radius of the saved call, in pixels", 0.01)
    batch: int = command.setting("examples a step", 50, range=Range(1))
    together: int = command.setting("examples whose rows are worked on at once; 0: all", 0)
    memory_mb: int = command.setting(
        "MiB of working memory of one slice of rows", 256, range=Range(16)
    )

    def __post_init__(self):
        command.check(self)
        settings.output_directory("out", self.out)


def export(step: Any, arguments: Sequence[Any], out: Path) -> dict[str, list[str]]:
    """Write a `PureStep` and one call of it; returns the names of inputs and outputs.

    Args:
      step: the step.
      arguments: of its call, in order.
      out: a folder, made where it is missing.

    Raises:
      RuntimeError: the module does not take exactly these arguments.
    """
    import tensorflow as tf

    module = step.function.experimental_get_compiler_ir(*arguments)(stage="stablehlo")
    inputs = tf.nest.flatten(list(arguments))
    wanted, taken = list(map(_described, inputs)), parameters(module)
    if wanted != taken:
        raise RuntimeError(f"the module takes {taken}, expected {wanted}")
    state, metrics = step(*arguments)
    outputs = [*state.weights, *state.optimizer, *(metrics[name] for name in sorted(metrics))]
    names = _names(arguments, metrics)
    out.mkdir(parents=True, exist_ok=True)
    (out / MODULE).write_text(module, encoding="utf-8")
    arrays = {f"in_{k}": np.asarray(value) for k, value in enumerate(inputs)}
    arrays |= {f"out_{k}": np.asarray(value) for k, value in enumerate(outputs)}
    np.savez(out / CALL, **arrays)
    (out / SIGNATURE).write_text(json.dumps(names, indent=1), encoding="utf-8")
    return names


def parameters(module: str) -> list[tuple[str, tuple[int, ...]]]:
    """The (dtype, shape) of every argument of a StableHLO module's `main`, in order.

    Raises:
      ValueError: text without a `main`, or with an argument of an unknown type.
    """
    found = re.search(r"func\.func (?:public )?@main\((.*?)\)\s*->", module, re.DOTALL)
    if found is None:
        raise ValueError("module: expected a text with `func.func @main(...) ->`")
    result = []
    for text in re.findall(r"%\w+: tensor<([^>]*)>", found[1]):
        *shape, kind = text.split("x")
        if kind not in _NUMPY:
            raise ValueError(f"module: expected one of the types {', '.join(_NUMPY)}, got {kind}")
        result.append((_NUMPY[kind], tuple(map(int, shape))))
    return result


def _described(value: Any) -> tuple[str, tuple[int, ...]]:
    value = np.asarray(value)
    return value.dtype.name, value.shape


def _names(arguments: Sequence[Any], metrics: dict[str, Any]) -> dict[str, list[str]]:
    state, _, _, reference, *_ = arguments
    carried = [f"weights/{k}" for k in range(len(state.weights))]
    carried += [f"state/{k}" for k in range(len(state.optimizer))]
    fixed = [f"reference/{k}" for k in range(len(reference))]
    return {
        "inputs": [*carried, "x", "y", *fixed, "eps", "learning_rate", "seed"],
        "outputs": [*carried, *(f"metrics/{name}" for name in sorted(metrics))],
    }


def main(config: Config) -> None:
    """Build the step, write it, and say what was written."""
    import keras
    import tensorflow as tf

    from robustra_tf.training.options import StepOptions
    from robustra_tf.training.pure_step import PureStep

    f, g = subjects.pair(config.model, config.weights)
    momentum = keras.optimizers.SGD(config.lr, momentum=0.9)
    step = PureStep(
        f,
        g if config.method == "robustra" else None,
        keras.optimizers.Adam(config.lr) if config.optimizer == "adam" else momentum,
        config.method,
        options=StepOptions(memory_mb=config.memory_mb, microbatch=config.together),
    )
    found = subjects.images(config.model, config.batch)
    x, y = map(tf.constant, subjects.batch(found, config.batch))
    numbers = tf.constant(config.eps), tf.constant(config.lr), tf.constant([0, 0])
    arguments = (step.state(), x, y, step.reference(), *numbers)
    names = export(step, arguments, Path(config.out))
    print(
        f"{config.out}: {MODULE}, {CALL}, {SIGNATURE}; "
        f"{len(names['inputs'])} inputs, {len(names['outputs'])} outputs"
    )


if __name__ == "__main__":
    main(command.read(Config, "benchmarks.export_step", __doc__))
