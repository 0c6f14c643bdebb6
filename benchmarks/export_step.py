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

from benchmarks import options, subjects
from robustra_tf import settings

OPTIMIZERS = ("adam", "sgd")
MODULE, CALL, SIGNATURE = "module.mlir", "io.npz", "signature.json"
_NUMPY = {"f32": "float32", "f64": "float64", "i32": "int32", "i64": "int64", "i1": "bool"}


@dataclasses.dataclass(frozen=True)
class Config:
    """Which step is written, and where."""

    out: str | None = options.option(None, "folder to write; required")
    model: str = options.option("mnist_small", "the network", tuple(settings.MODEL_INPUTS))
    method: str = options.option("robustra", "robustra or wong", subjects.METHODS)
    weights: str = options.option(subjects.RANDOM, "random, published, or a .mat file")
    optimizer: str = options.option("adam", "adam or sgd (momentum 0.9)", OPTIMIZERS)
    lr: float = options.option(1e-3, "learning rate of the saved call")
    eps: float = options.option(0.01, "radius of the saved call, in pixels")
    batch: int = options.option(50, "examples a step")
    together: int = options.option(0, "examples whose rows are worked on at once; 0: all")
    memory_mb: int = options.option(256, "working memory of one slice of rows")

    def __post_init__(self):
        if self.out is None:
            raise settings.SettingError("out", "a folder", None)
        settings.output_directory("out", self.out)
        settings.within("batch", self.batch, 1)


def export(step: Any, arguments: Sequence[Any], out: Path) -> dict[str, list[str]]:
    """Write a `train.pure.PureStep` and one call of it; returns the names of inputs and outputs.

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
    weights, state, metrics = step(*arguments)
    outputs = [*weights, *state, *(metrics[name] for name in sorted(metrics))]
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
    weights, state, _, _, reference, _, _ = arguments
    carried = [f"weights/{k}" for k in range(len(weights))]
    carried += [f"state/{k}" for k in range(len(state))]
    fixed = [f"reference/{k}" for k in range(len(reference))]
    return {
        "inputs": [*carried, "x", "y", *fixed, "eps", "learning_rate"],
        "outputs": [*carried, *(f"metrics/{name}" for name in sorted(metrics))],
    }


def main(config: Config) -> None:
    """Build the step, write it, and say what was written."""
    import keras
    import tensorflow as tf

    from train.pure import PureStep

    f, g = subjects.pair(config.model, config.weights)
    momentum = keras.optimizers.SGD(config.lr, momentum=0.9)
    step = PureStep(
        f,
        g if config.method == "robustra" else None,
        keras.optimizers.Adam(config.lr) if config.optimizer == "adam" else momentum,
        config.method,
        together=config.together or None,
        budget=config.memory_mb * 2**20,
    )
    begin = step.networks()
    found = subjects.images(config.model, config.batch)
    x, y = map(tf.constant, subjects.batch(found, config.batch))
    rates = tf.constant(config.eps), tf.constant(config.lr)
    arguments = (begin.weights, begin.state, x, y, begin.reference, *rates)
    names = export(step, arguments, Path(config.out))
    print(
        f"{config.out}: {MODULE}, {CALL}, {SIGNATURE}; "
        f"{len(names['inputs'])} inputs, {len(names['outputs'])} outputs"
    )


if __name__ == "__main__":
    main(options.parse(Config, __doc__))
