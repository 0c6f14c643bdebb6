"""Files of ONNX into Keras models, compared with onnxruntime."""

from __future__ import annotations

import collections
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

# Each of them registers its nodes.
from robustra_tf.onnx import arithmetic, files, images, moves, padding
from robustra_tf.onnx.arithmetic import unbatched
from robustra_tf.onnx.layout import Shape, positions
from robustra_tf.onnx.node import HANDLERS, Node, Operand, RefusedError, supported
from robustra_tf.onnx.packages import required
from robustra_tf.onnx.replay import Runtime
from robustra_tf.onnx.values import Value, arranged, check_size, emitted

_REGISTERED = (arithmetic, images, moves, padding)
#: The first whose sums broadcast as they do now.
_OLDEST_OPSET = 7
#: How far Keras and onnxruntime may be apart, as a share of the largest number.
TOLERANCE = 1e-5
#: Numbers of all tables together.
_MOST_TOGETHER = 2**27


def load(path: str | os.PathLike[str]) -> keras.Model:
    """A network in ONNX as a functional Keras model.

    Input and output keep the file's order and shape, without the batch: `[1, 3, 32, 32]` is
    `(3, 32, 32)`. Inside, channels are last: one Permute at the entry turns an image, and what
    would turn it back is folded into the weights behind it. The model can be trained, certified and
    saved as any other. It is compared with onnxruntime on 16 random inputs.

    Args:
      path: an `.onnx` or `.onnx.gz` file; weights may lie in files of the same folder.

    Returns:
      The model, in float32.

    Raises:
      OSError: the file cannot be read.
      ImportError: the packages of the extra are not installed.
      ValueError: it is no ONNX, is too large, has more than one input or output, or computes
        something else than onnxruntime does; or a node that is not read, by its name and type.

    Example:
      >>> path = rt.onnx.save(model, "network.onnx")
      >>> print(rt.onnx.load(path)(x).numpy().round(2))
      [[0.8 0.2]]
    """
    path = Path(path)
    proto = files.read_model(path)
    try:
        network = _Network(proto)
        _compare(network)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # whatever Keras and TensorFlow say of odd shapes
        raise ValueError(f"{path}: {' '.join(str(error).split())[:600]}") from error
    return network.model


class _Network:
    """A graph of ONNX, node by node.

    Attributes:
      proto: the `onnx.ModelProto`.
      known: by name, constants and values.
      makers: by name, the node that gives it, in their order.
      model: the Keras model.
    """

    def __init__(self, proto: Any):
        self.proto = proto
        _check_opset(proto)
        graph = proto.graph
        self.known: dict[str, Operand] = {t.name: files.array(t) for t in graph.initializer}
        self.makers: dict[str, Node] = {}
        self._uses = collections.Counter(name for node in graph.node for name in node.input)
        self._together = 0
        entry = self._entry(graph)
        if len(graph.output) != 1:
            raise ValueError(f"expected one output, got {len(graph.output)}")
        for node in graph.node:
            self._follow(node)
        self.model = self._model(entry, graph.output[0].name)

    def _entry(self, graph: Any) -> keras.KerasTensor:
        inputs = [each for each in graph.input if each.name not in self.known]
        if len(inputs) != 1:
            raise ValueError(f"expected one input, got {len(inputs)}")
        shape = _input_shape(inputs[0])
        entry = keras.Input(unbatched(shape))
        self.known[inputs[0].name] = Value(positions(shape), entry)
        return entry

    def _follow(self, proto: Any) -> None:
        """Adds what one node gives."""
        node = Node(
            proto.op_type,
            proto.name or (proto.output[0] if proto.output else ""),
            tuple(self._operand(name, proto) for name in proto.input),
            {each.name: _attribute(each) for each in proto.attribute},
            sum(map(bool, proto.output)),
        )
        if proto.domain not in ("", "ai.onnx") or proto.op_type not in HANDLERS:
            raise node.refused(f"it is not read. Read are {supported()}")
        try:
            found = HANDLERS[proto.op_type](node)
        except RefusedError:
            raise
        except Exception as error:  # whatever damaged attributes and shapes lead to
            raise node.refused(" ".join(str(error).split())[:300]) from error
        parts = found if isinstance(found, list) else [found]
        for name, part in zip([name for name in proto.output if name], parts, strict=False):
            self._keep(name, part, node)

    def _operand(self, name: str, proto: Any) -> Operand | None:
        if name and name not in self.known:
            raise RefusedError(
                f"node {proto.name!r} of type {proto.op_type}: {name!r} is nothing before it"
            )
        return self.known[name] if name else None

    def _keep(self, name: str, part: Operand, node: Node) -> None:
        if isinstance(part, Value):
            self._together += part.index.size
            if self._together > _MOST_TOGETHER:
                raise node.refused(f"expected at most {_MOST_TOGETHER} numbers in all values")
            part = part.settled() if self._uses[name] > 1 else part
            self.makers[name] = node
        self.known[name] = part

    def _model(self, entry: keras.KerasTensor, name: str) -> keras.Model:
        found = self.known.get(name)
        if not isinstance(found, Value):
            raise ValueError(f"expected output {name!r} to depend on the input")
        source = arranged(found.source, found.index.reshape(unbatched(found.index.shape)))
        tensor = emitted(source)
        if tensor is entry:
            tensor = keras.layers.Identity()(entry)
        return keras.Model(entry, tensor)


def opsets() -> tuple[int, int]:
    """The oldest and the newest opset that is read."""
    return _OLDEST_OPSET, required("onnx").defs.onnx_opset_version()


def _check_opset(proto: Any) -> None:
    own = [each.version for each in proto.opset_import if each.domain in ("", "ai.onnx")]
    oldest, newest = opsets()
    if len(own) != 1 or not oldest <= own[0] <= newest:
        raise ValueError(f"expected an opset from {oldest} to {newest}, got {own}")


def _input_shape(given: Any) -> Shape:
    """The shape of one input with its batch, 1 where that is left open."""
    kind = given.type.tensor_type
    if kind.elem_type != 1:
        raise ValueError(f"expected input {given.name!r} of float32, got type {kind.elem_type}")
    if not kind.HasField("shape") or not kind.shape.dim:
        raise ValueError(f"expected input {given.name!r} with axes, got none")
    sizes = [size.dim_value for size in kind.shape.dim]
    if len(sizes) > 1 and sizes[0] == 0:
        sizes[0] = 1
    if min(sizes) < 1:
        raise ValueError(f"expected input {given.name!r} of known sizes, got {sizes}")
    check_size(tuple(sizes))
    return tuple(sizes)


def _attribute(proto: Any) -> Any:
    """An attribute as Python's numbers and text, or an array."""
    value = required("onnx").helper.get_attribute_value(proto)
    if proto.HasField("t"):
        return files.array(value)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _compare(network: _Network) -> None:
    """Refuses a model that computes something else than onnxruntime on random inputs."""
    shape = network.model.input_shape[1:]
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(size=(8, *shape)), rng.normal(size=(8, *shape))])
    x = x.astype(np.float32)
    (expected,) = Runtime(network.proto)(x)
    found = network.model(x, training=False).numpy()
    if not _close(found.reshape(expected.shape), expected):
        raise ValueError(_difference(network, x))


def _close(found: np.ndarray, expected: np.ndarray) -> bool:
    if not np.isfinite(expected).all():
        return False
    apart = np.abs(found.astype(np.float64) - expected).max(initial=0.0)
    return bool(apart <= TOLERANCE * np.abs(expected).max(initial=0.0) + 1e-30)


def _difference(network: _Network, x: np.ndarray) -> str:
    """Which node is the first that Keras and onnxruntime do not agree on."""
    names = [name for name, node in network.makers.items() if _made(network.known[name])]
    if not names:
        kinds = ", ".join(sorted({node.kind for node in network.makers.values()}))
        return f"Keras and onnxruntime differ in the output of {kinds}"
    values: Sequence[Any] = [network.known[name] for name in names]
    given = Runtime(network.proto, names)(x)[1:]
    inner = keras.Model(network.model.input, {str(i): v.tensor for i, v in enumerate(values)})
    found = inner(x, training=False)
    for i, (name, value, expected) in enumerate(zip(names, values, given, strict=True)):
        taken = found[str(i)].numpy().reshape(len(x), -1)[:, value.index.ravel()]
        if not _close(taken.reshape(expected.shape), expected):
            node = network.makers[name]
            return f"node {node.name!r} of type {node.kind}: Keras and onnxruntime differ"
    return "Keras and onnxruntime differ in the output"


def _made(value: Operand) -> bool:
    return isinstance(value, Value) and isinstance(value.source, keras.KerasTensor)
