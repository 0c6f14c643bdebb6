"""Keras models into files of ONNX, compared with onnxruntime."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers
from keras.src.models.functional import Functional

from robustra_tf.intake.subject import Couple, Wrapper
from robustra_tf.onnx import windows  # registers its layers
from robustra_tf.onnx.draft import Draft, Placed, image, plain
from robustra_tf.onnx.layers import ELEMENTWISE, IMAGES, folds, normalisation, refused, write
from robustra_tf.onnx.layout import positions
from robustra_tf.onnx.packages import required
from robustra_tf.onnx.replay import Runtime
from robustra_tf.storage.files import write_atomically

_REGISTERED = windows
#: The nodes that are written mean the same from the first to the last.
OPSETS = (11, 21)
#: How far onnxruntime may be from Keras, as a share of the largest number.
TOLERANCE = 1e-5
#: Bytes that a file of ONNX may hold at most: protocol buffers end there.
_LARGEST = 2**31 - 2**20


def save(
    model: keras.Model, path: str | os.PathLike[str], *, fold: bool = False, opset: int = 13
) -> Path:
    """Writes a model as ONNX, as verifiers read it: channels first, Conv and Gemm.

    An input that layers of images read is written as `[N, C, H, W]`, any other one as the model has
    it; the output is the model's. Inside, no Transpose is left that weights can take. What is
    written is checked by `onnx.checker`, and by onnxruntime on 16 random inputs.

    Args:
      model: a built Sequential or functional model of layers that are written, in float32.
      path: the file; one that stands there is replaced.
      fold: whether normalisation (Rescaling, Normalization) goes into the weights behind it where
        that is exact; otherwise it stays, as Sub and Div.
      opset: 11 to 21.

    Returns:
      The path.

    Raises:
      OSError: nothing could be written.
      ImportError: the packages of the extra are not installed.
      ValueError: a layer that is not written, by name and type, or another argument; nothing is
        written.

    Example:
      >>> rt.onnx.save(model, "network.onnx").name
      'network.onnx'
    """
    if not isinstance(opset, int) or not OPSETS[0] <= opset <= OPSETS[1]:
        raise ValueError(f"opset must be from {OPSETS[0]} to {OPSETS[1]}, got {opset!r}")
    model = _taken(model)
    functional = _functional(model)
    shape = tuple(functional.inputs[0].shape[1:])
    if None in shape or not shape:
        raise ValueError(f"model: expected a known input shape, {model.name!r} has {shape}")
    turned = channels_first(model)
    proto = _proto(functional, turned, fold, opset)
    _check(model, proto, turned)
    path = Path(path)
    write_atomically(path, proto.SerializeToString())
    return path


def channels_first(model: keras.Model) -> bool:
    """Whether `save` writes a model's input with channels first, where the model has them last."""
    functional = _functional(_taken(model))
    return len(functional.inputs[0].shape) > 2 and _reads_images(functional)


def _taken(model: Any) -> keras.Model:
    """The network itself, refused where it is not what can be followed."""
    while getattr(type(model), "call", None) is Wrapper.call:
        model = model.network
    if isinstance(model, Couple):
        raise ValueError("model must be one network for onnx, got a Pair: give its f or its g")
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(f"model: expected a built keras.Model, got {type(model).__name__}")
    _functional(model)
    if any(weight.dtype != "float32" for weight in model.weights if "seed" not in weight.path):
        raise ValueError(f"model: expected float32, got other weights in {model.name!r}")
    return model


def _functional(model: Any) -> Functional:
    """The functional form of a model with one input and one output."""
    found = getattr(model, "_functional", model)
    if not isinstance(found, Functional) or len(found.inputs) != 1 or len(found.outputs) != 1:
        raise refused(model, "expected a Sequential or functional model of one input and output")
    return found


class _Walk:
    """A model followed layer by layer, into a draft."""

    def __init__(self, fold: bool):
        self.draft, self._fold = Draft(), fold

    def inline(self, model: Functional, entry: Placed) -> Placed:
        """The value of a model's output, of that of its input."""
        found, readers = {id(model.inputs[0]): entry}, _readers(model)
        for depth in sorted(model._nodes_by_depth, reverse=True):
            for call in model._nodes_by_depth[depth]:
                if call.is_input:
                    continue
                inputs = [found[id(tensor)] for tensor in call.input_tensors]
                output = call.output_tensors[0]
                found[id(output)] = self._follow(call.operation, inputs, readers, output)
        return found[id(model.outputs[0])]

    def _follow(self, layer: Any, inputs: list[Placed], readers: dict, output: Any) -> Placed:
        if isinstance(layer, keras.Model):
            return self.inline(_functional(layer), inputs[0])
        if not isinstance(layer, layers.Layer):
            raise refused(layer, "it is an operation on tensors, not a layer")
        if not isinstance(layer, layers.Rescaling | layers.Normalization):
            return write(self.draft, layer, inputs)
        value = self.draft.padded(inputs[0])
        constants = normalisation(layer, value.index.shape)
        if self._fold and _taken_in(readers, output, constants):
            return dataclasses.replace(value, scale=constants)
        return self._scaled(layer.name, value, *constants)

    def _scaled(self, wish: str, value: Placed, scale: np.ndarray, shift: np.ndarray) -> Placed:
        """`scale x + shift` as `(x - m) / d`; as Mul and Add where a scale is 0."""
        steps = [("Mul", scale, 1.0), ("Add", shift, 0.0)]
        if scale.all():
            steps = [("Sub", -shift / scale, 0.0), ("Div", 1.0 / scale, 1.0)]
        name = value.name
        for kind, constants, idle in steps:
            if (constants != idle).any():
                weight = self.draft.constant(f"{wish}_{kind.lower()}", value.spread(constants))
                name = self.draft.node(kind, [name, weight], wish)
        return dataclasses.replace(value, name=name)


Reader = tuple[Any, Any]


def _readers(model: Functional) -> dict[int, list[Reader]]:
    """What reads each tensor: layers, each with its output; None reads the model's output."""
    found: dict[int, list[Reader]] = {id(model.outputs[0]): [(None, None)]}
    for calls in model._nodes_by_depth.values():
        for call in calls:
            for tensor in call.input_tensors:
                found.setdefault(id(tensor), []).append((call.operation, call.output_tensors[0]))
    return found


def _taken_in(readers: dict[int, list[Reader]], tensor: Any, constants: tuple) -> bool:
    """Whether one layer alone reads a tensor, perhaps flattened, and can take in its scale."""
    reading = readers.get(id(tensor), [])
    if len(reading) != 1:
        return False
    ((layer, output),) = reading
    if type(layer) is layers.Flatten:
        return _taken_in(readers, output, tuple(each.ravel() for each in constants))
    return folds(layer, *constants)


def _reads_images(model: Functional) -> bool:
    """Whether a layer of images reads the model's input, changed number by number at most."""
    readers, open_ = _readers(model), [model.inputs[0]]
    while open_:
        for layer, output in readers.get(id(open_.pop()), []):
            if isinstance(layer, IMAGES):
                return True
            if isinstance(layer, keras.Model) and _reads_images(_functional(layer)):
                return True
            if isinstance(layer, ELEMENTWISE):
                open_.append(output)
    return False


def _proto(model: Functional, turned: bool, fold: bool, opset: int) -> Any:
    """The `onnx.ModelProto` of a model, its input with channels first or as it is."""
    onnx, walk, shape = required("onnx"), _Walk(fold), tuple(model.inputs[0].shape[1:])
    entry = (image if turned else plain)(walk.draft.named("input"), shape)
    found = walk.draft.padded(walk.inline(model, entry))
    output = walk.draft.arranged(found, positions(found.index.shape))
    if output == entry.name:
        output = walk.draft.node("Identity", [output], "output")
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", *sizes])
        for name, sizes in ((entry.name, entry.shape), (output, found.index.shape))
    ]
    draft = walk.draft
    if sum(len(each.raw_data) for each in draft.weights) > _LARGEST:
        raise ValueError(f"model: expected weights of at most {_LARGEST} bytes in {model.name!r}")
    graph = onnx.helper.make_graph(draft.nodes, model.name, ends[:1], ends[1:], draft.weights)
    own = [onnx.helper.make_opsetid("", opset)]
    version = onnx.helper.find_min_ir_version_for(own)
    return onnx.helper.make_model(
        graph, opset_imports=own, ir_version=version, producer_name="robustra_tf"
    )


def _check(model: keras.Model, proto: Any, turned: bool) -> None:
    """Refuses what is not well formed, or computes something else than the model."""
    required("onnx").checker.check_model(proto, full_check=True)
    rng = np.random.default_rng(0)
    own = model.input_shape[1:]
    x = np.concatenate([rng.uniform(size=(8, *own)), rng.normal(size=(8, *own))]).astype("float32")
    expected = model(x, training=False).numpy()
    if turned:
        x = np.moveaxis(x, -1, 1)
    (found,) = Runtime(proto)(x)
    apart = np.abs(found.reshape(expected.shape) - expected).max(initial=0.0)
    if not apart <= TOLERANCE * np.abs(expected).max(initial=0.0) + 1e-30:
        raise ValueError(f"model: {model.name!r} computes something else than its layers written")
