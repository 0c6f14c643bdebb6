"""Networks: what is computed (`Structure`), with which values (`Network`), of which variables."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from robustra_tf.graph.maxima import Maximum, maximum
from robustra_tf.graph.ops import Add, AffineOp, Input, Op, Relu, Shape


@dataclasses.dataclass(frozen=True)
class Node:
    """One operation of a graph, with where its inputs and its weights come from.

    Attributes:
      op: the operation.
      inputs: indices of the nodes that it reads, in order.
      weights: indices into the graph's variables, in the order of `op.weight_shapes`.
      name: the Keras layer that it came from; of no account when nodes are compared.
    """

    op: Op
    inputs: tuple[int, ...] = ()
    weights: tuple[int, ...] = ()
    name: str = dataclasses.field(default="", compare=False)

    @property
    def affine(self) -> AffineOp:
        """The operation of a node that is neither the input nor a ReLU; else a `TypeError`."""
        if not isinstance(self.op, AffineOp):
            raise TypeError(f"{self.name}: expected an AffineOp, got {type(self.op).__name__}")
        return self.op

    def compute(
        self,
        values: Sequence[tf.Tensor],
        weights: Sequence[tf.Tensor],
        relu: Callable[[tf.Tensor], tf.Tensor] = tf.nn.relu,
    ) -> tf.Tensor:
        """The node's output, of all earlier nodes' outputs and of the graph's weights.

        `relu` is what a ReLU computes: another function with the same values may have gradients of
        its own.
        """
        inputs = [values[i] for i in self.inputs]
        if isinstance(self.op, Relu):
            return relu(*inputs)
        return self.affine.forward(*inputs, *(weights[i] for i in self.weights))


@dataclasses.dataclass(frozen=True)
class Structure:
    """A ReLU network without its weights: immutable, hashable, equal when it computes the same.

    The nodes stand in topological order: node 0 is the one `Input`, the last one gives the logits.

    Raises:
      ValueError: where the nodes do not form such a graph, or shapes do not fit.
    """

    nodes: tuple[Node, ...]

    def __post_init__(self):
        if not self.nodes or not isinstance(self.nodes[0].op, Input):
            raise ValueError(f"nodes: expected an Input first, got {self.nodes[:1]}")
        for index, node in enumerate(self.nodes[1:], start=1):
            self._check(index, node)

    def _check(self, index: int, node: Node) -> None:
        op, what = node.op, f"nodes[{index}] ({node.name}: {type(node.op).__name__})"
        if not isinstance(op, Relu | AffineOp):
            raise ValueError(f"{what}: expected a Relu or an AffineOp")
        arity = op.count if isinstance(op, Add) else 1
        if len(node.inputs) != arity or not all(0 <= i < index for i in node.inputs):
            raise ValueError(f"{what}: expected {arity} earlier nodes as inputs, got {node.inputs}")
        for i in node.inputs:
            if self.nodes[i].op.out_shape != op.in_shape:
                raise ValueError(
                    f"{what}: expected inputs of shape {op.in_shape}, "
                    f"node {i} gives {self.nodes[i].op.out_shape}"
                )
        expected = len(op.weight_shapes) if isinstance(op, AffineOp) else 0
        if len(node.weights) != expected:
            raise ValueError(f"{what}: expected {expected} weights, got {len(node.weights)}")

    @property
    def input_shape(self) -> Shape:
        """The shape of one input, without the batch."""
        return self.nodes[0].op.out_shape

    def check_rival(self, name: str) -> None:
        """Refuses (`ValueError`) logits without two classes, by the model's name.

        A margin is over another class; of one logit alone everything would be certified.
        """
        if math.prod(self.output_shape) < 2:
            raise ValueError(
                f"model: expected at least two logits, {name!r} gives {self.output_shape}: a label "
                "is certified over another class; of one logit ask rt.binary, below or above"
            )

    @property
    def output_shape(self) -> Shape:
        """The shape of the last node's output, without the batch."""
        return self.nodes[-1].op.out_shape

    @functools.cached_property
    def relus(self) -> tuple[int, ...]:
        """The indices of the ReLU nodes, in topological order."""
        return tuple(i for i, node in enumerate(self.nodes) if isinstance(node.op, Relu))

    @functools.cached_property
    def consumers(self) -> tuple[tuple[int, ...], ...]:
        """For each node, the indices of the nodes that read it (twice where it is read twice)."""
        readers: list[list[int]] = [[] for _ in self.nodes]
        for index, node in enumerate(self.nodes):
            for i in node.inputs:
                readers[i].append(index)
        return tuple(map(tuple, readers))

    @functools.cached_property
    def maxima(self) -> dict[int, Maximum]:
        """The nodes that are the maximum of two numbers, and of which."""
        found = ((i, maximum(self.nodes, i)) for i in range(len(self.nodes)))
        return {i: each for i, each in found if each is not None}

    @functools.cached_property
    def variable_count(self) -> int:
        """How many weights `forward` needs."""
        return 1 + max((i for node in self.nodes for i in node.weights), default=-1)

    def coefficients(self, index: int) -> set[int]:
        """The weights that the matrices of nodes up to `index` are made of, without biases."""
        nodes = (node for node in self.nodes[: index + 1] if isinstance(node.op, AffineOp))
        return {i for node in nodes for i in node.weights[: node.affine.coefficients_count]}

    def forward(self, weights: Sequence[tf.Tensor], x: tf.Tensor) -> tf.Tensor:
        """The network's exact output.

        Args:
          weights: as many tensors as `variable_count`, all of the dtype of `x`.
          x: [n, *input_shape].

        Returns:
          [n, *output_shape].
        """
        return self.values(weights, x)[-1]

    def values(
        self,
        weights: Sequence[tf.Tensor],
        x: tf.Tensor,
        relu: Callable[[tf.Tensor], tf.Tensor] = tf.nn.relu,
    ) -> list[tf.Tensor]:
        """The exact output of every node; `relu` is as `Node.compute` takes it."""
        values = [x]
        for node in self.nodes[1:]:
            values.append(node.compute(values, weights, relu))
        return values


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A ReLU network as a value: a structure with its weights.

    What every bound, loss and attack is a function of.

    To `tf.nest`, `tf.function` and gradient tapes it is the list of its weights: those are traced,
    the structure belongs to the trace.

    Attributes:
      structure: what is computed.
      weights: `structure.variable_count` tensors of one dtype.

    Raises:
      ValueError: another number of weights than the structure has.
    """

    structure: Structure
    weights: Sequence[tf.Tensor]

    def __post_init__(self):
        if len(self.weights) != self.structure.variable_count:
            raise ValueError(
                f"weights: expected {self.structure.variable_count}, got {len(self.weights)}"
            )

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """The logits [n, classes] of `x` [n, *input_shape], of the dtype of the weights."""
        return self.structure.forward(self.weights, x)

    def inputs_of_relus(self, x: tf.Tensor) -> dict[int, tf.Tensor]:
        """What each ReLU reads at `x`."""
        values, nodes = self.structure.values(self.weights, x), self.structure.nodes
        return {at: values[nodes[at].inputs[0]] for at in self.structure.relus}

    def with_weights(self, weights: Sequence[tf.Tensor]) -> Network:
        """The same structure with other weights."""
        return Network(self.structure, weights)

    def __tf_flatten__(self) -> tuple[tuple[Structure], tuple[list[Any]]]:
        return (self.structure,), (list(self.weights),)

    @classmethod
    def __tf_unflatten__(cls, metadata: tuple[Structure], components: tuple[list[Any]]) -> Network:
        return cls(*metadata, *components)


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """A structure together with the variables of the model that it was built from.

    The variables are the model's own: the graph follows the model as it trains, and gradients of
    anything computed from `weights()` reach the model.

    Raises:
      ValueError: where the variables' number or shapes are not what the structure needs.
    """

    structure: Structure
    variables: tuple[tf.Variable, ...]

    def __post_init__(self):
        if len(self.variables) != self.structure.variable_count:
            raise ValueError(
                f"variables: expected {self.structure.variable_count}, got {len(self.variables)}"
            )
        for node in self.structure.nodes:
            expected = node.op.weight_shapes if isinstance(node.op, AffineOp) else ()
            actual = tuple(tuple(self.variables[i].shape) for i in node.weights)
            if actual != expected:
                raise ValueError(
                    f"variables: {node.name} expects weights of shapes {expected}, got {actual}"
                )

    def weights(self, dtype: tf.DType = tf.float32) -> list[tf.Tensor]:
        """The variables' present values, cast to `dtype`; differentiable in the variables."""
        return [tf.cast(tf.convert_to_tensor(variable), dtype) for variable in self.variables]

    def network(self, dtype: tf.DType = tf.float32) -> Network:
        """The structure with the variables' present values, as `weights` has them."""
        return Network(self.structure, self.weights(dtype))

    def assign(self, values: Mapping[int, tf.Tensor]) -> None:
        """Gives some variables, by their places, new values."""
        for place, value in values.items():
            self.variables[place].assign(tf.cast(value, self.variables[place].dtype))

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """The logits [n, classes] of `x` [n, *input_shape], computed in the dtype of `x`."""
        x = tf.convert_to_tensor(x)
        return self.structure.forward(self.weights(x.dtype), x)
