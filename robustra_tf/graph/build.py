"""A Keras model to its graph: the only place that knows how Keras stores a model's layers."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras.src.models.functional import Functional, operation_fn

from robustra_tf.graph import convert
from robustra_tf.graph.graph import Graph, Node, Structure
from robustra_tf.graph.heads import Head, head
from robustra_tf.graph.ops import Input, Shape
from robustra_tf.graph.padding import folded


class Call(NamedTuple):
    """A layer where a model calls it: once, or more often where it is shared.

    Attributes:
      layer: the Keras layer.
      node: the node of the graph that computes the layer's output; None for padding that its reader
        took over.
    """

    layer: keras.layers.Layer
    node: int | None


def build(model: keras.Model) -> Graph:
    """The graph of affine operations and ReLUs that a Keras model computes at inference.

    Args:
      model: a built `Sequential` or functional model with one input, one output and channels last.
        Models inside it are inlined; layers used twice share their weights.

    Returns:
      A graph over the model's own variables, each listed once.

    Raises:
      UnsupportedLayerError: for a layer that is no affine map or ReLU; the message names the layer,
        its type and what is supported.
      ValueError: for a model that is not built, that takes other inputs than floating-point
        numbers, or whose logits have more than one axis.
    """
    return read(model)[0]


def read(model: keras.Model) -> tuple[Graph, tuple[Call, ...]]:
    """As `build`, with the calls of layers, in the order in which `outputs` runs them."""
    functional = _functional(model)
    walk = _Walk(_static(model, functional.inputs[0].shape), head_of(model))
    output = walk.inline(functional, 0)
    nodes = walk.nodes
    if output != len(nodes) - 1:
        raise ValueError(f"model: {model.name!r} computes layers that its output does not need")
    kept, moved = folded(nodes)
    structure = Structure(kept)
    if len(structure.output_shape) != 1:
        raise ValueError(
            f"model: expected logits with one axis, {model.name!r} (last layer "
            f"{nodes[-1].name!r}) gives {structure.output_shape}: Flatten them"
        )
    calls = tuple(Call(layer, moved.get(node)) for layer, node in walk.calls)
    return Graph(structure, tuple(walk.variables)), calls


def logits(model: keras.Model, x: tf.Tensor) -> tf.Tensor:
    """The logits [n, classes] that the model itself gives at inference, of its own dtype.

    Args:
      model: one that `read` accepts; input and output may be a dictionary of one.
      x: [n, *input_shape].
    """
    if head_of(model) is None:
        return _only(model(_packed(_functional(model), x), training=False))
    return _run(model, x, lambda layer, value: None)


def head_of(model: keras.Model) -> Head | None:
    """The softmax or sigmoid at the end of a model, which its graph leaves out; None of none."""
    return head(_functional(model), _functional)


def outputs(model: keras.Model, x: tf.Tensor) -> list[tf.Tensor]:
    """What the model's own layers compute at inference, one after another.

    Args: as `logits` takes them.

    Returns:
      The output of every call, in the order of the calls that `read` lists.
    """
    found: list[tf.Tensor] = []
    _run(model, x, lambda layer, value: found.append(value))
    return found


def _run(
    model: keras.Model, x: tf.Tensor, visit: Callable[[keras.layers.Layer, tf.Tensor], None]
) -> tf.Tensor:
    """The logits, layer by layer; `visit` sees each layer and its output, a bare head no more."""
    end = head_of(model)

    def called(layer: keras.layers.Layer):
        if isinstance(layer, keras.Model):
            return lambda value, **_: run(_functional(layer), value)
        own = end if end is not None and layer is end.layer else None
        if own is not None and not own.fused:
            return lambda value, **_: value
        function = operation_fn(layer if own is None else own.bare, training=False)

        def call(*inputs, **options):
            value = function(*inputs, **options)
            visit(layer, value)
            return value

        return call

    def run(functional: Functional, value: tf.Tensor) -> tf.Tensor:
        inputs = functional._standardize_inputs(_packed(functional, value))
        return _only(functional._run_through_graph(inputs, operation_fn=called))

    return run(_functional(model), x)


def _packed(functional: Functional, value: Any) -> Any:
    """A value as the model's one input, in a dictionary where it takes one."""
    return keras.tree.pack_sequence_as(functional._inputs_struct, keras.tree.flatten(value))


def _only(values: Any) -> tf.Tensor:
    """The one tensor of a model's output, whatever it is wrapped in."""
    (value,) = keras.tree.flatten(values)
    return value


class _Walk:
    """The nodes and variables found so far."""

    def __init__(self, input_shape: Shape, end: Head | None):
        self._end, self._ended = end, False
        self.nodes = [Node(Input(input_shape), name="input")]
        self.variables: list[tf.Variable] = []
        self.calls: list[tuple[keras.layers.Layer, int]] = []
        self._positions: dict[int, int] = {}

    def inline(self, model: Functional, entry: int) -> int:
        """Append the layers of `model` fed by node `entry`; return the node of its output."""
        found = {id(model.inputs[0]): entry}
        for depth in sorted(model._nodes_by_depth, reverse=True):
            for call in model._nodes_by_depth[depth]:
                if call.is_input:
                    continue
                inputs = tuple(found[id(tensor)] for tensor in call.input_tensors)
                found[id(call.output_tensors[0])] = self._append(call, inputs)
        return found[id(model.outputs[0])]

    def _append(self, call: Any, inputs: tuple[int, ...]) -> int:
        layer = call.operation
        if isinstance(layer, keras.Model):
            functional = _functional(layer)
            _check_call(call)
            return self.inline(functional, inputs[0])
        if self._end is not None and call is self._end.call:
            if self._ended:
                raise convert.unsupported(layer, "its softmax or sigmoid is not at the end alone")
            self._ended = True
            if not self._end.fused:
                _check_call(call)
                return inputs[0]
            layer = self._end.bare
        shapes = [self.nodes[i].op.out_shape for i in inputs]
        lowered = convert.convert(layer, shapes, _operands(call))
        _check_call(call)
        places = list(inputs)
        for piece in lowered.pieces:
            weights = tuple(self._position(variable) for variable in piece.variables)
            read = tuple(places[i] for i in piece.inputs)
            self.nodes.append(Node(piece.op, read, weights, layer.name))
            places.append(len(self.nodes) - 1)
        self.calls.append((layer, places[lowered.output]))
        return places[lowered.output]

    def _position(self, variable: tf.Variable) -> int:
        if id(variable) not in self._positions:
            self._positions[id(variable)] = len(self.variables)
            self.variables.append(variable)
        return self._positions[id(variable)]


def _functional(model: Any) -> Functional:
    """The functional form of a Sequential or functional model with one input and one output."""
    # A subclass may bring its own train_step, but not its own call.
    call = getattr(type(model), "call", None)
    if call is keras.Sequential.call:
        functional = model._functional
        if functional is None:
            raise ValueError(
                f"model: {model.name!r} is not built: begin it with keras.Input(shape), or call it "
                "on data once"
            )
    elif call is Functional.call:
        functional = model
    elif isinstance(model, keras.layers.Layer):
        raise convert.unsupported(model, "it is neither a Sequential nor a functional model")
    else:
        raise TypeError(f"model: expected a keras.Model, got {type(model).__name__}")
    for side, tensors in (("input", functional.inputs), ("output", functional.outputs)):
        if len(tensors) != 1:
            raise convert.unsupported(model, f"expected one {side}, got {len(tensors)}")
    # Keras casts what it is given to this type: numbers of [0, 1] to 0, or cut to a few digits.
    if (kind := functional.inputs[0].dtype) not in ("float32", "float64"):
        raise ValueError(
            f"model: expected inputs of float32 or float64, {model.name!r} casts its own to {kind}"
        )
    return functional


def _static(model: keras.Model, shape: tuple[int | None, ...]) -> Shape:
    known = tuple(size for size in shape[1:] if size is not None)
    if not known or len(known) < len(shape) - 1:
        raise ValueError(
            f"model: expected an input shape that is known but for the batch, {model.name!r} has "
            f"{shape}"
        )
    return known


def _operands(call: Any) -> list[Any]:
    """What a layer of several inputs is called with: the number of an input, or a constant."""
    given = call.arguments.args[0] if call.arguments.args else None
    if not isinstance(given, list | tuple):
        return []
    count = itertools.count()
    return [next(count) if isinstance(each, keras.KerasTensor) else each for each in given]


def _check_call(call: Any) -> None:
    """Refuse `layer(x, training=True)`: batch statistics and dropout are no fixed affine map.

    What a layer's `call` takes by default is no argument of the user's; those of augmentations
    train by default. Inference overrides it.
    """
    usual = inspect.signature(call.operation.call).parameters
    given = [(None, value) for value in call.arguments.args[1:]]
    given += call.arguments.kwargs.items()
    extra = [
        value
        for name, value in given
        if not (value is None or value is False or isinstance(value, keras.KerasTensor))
        and not (name in usual and usual[name].default is value)
    ]
    if extra:
        raise convert.unsupported(call.operation, f"it is called with extra arguments {extra}")
