"""Whole models as graphs: what Keras computes, with the model's own variables."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from robustra_tf import graph
from robustra_tf.graph.convolutions import Conv2D
from robustra_tf.graph.graph import Graph, Node, Structure
from robustra_tf.graph.ops import Add, Dense, Input, Relu, Reshape
from robustra_tf.graph.spatial import Pad2D, Pool2D
from tests import nets


def assert_computes(built, model, count=4):
    x = nets.images(model, count)
    np.testing.assert_allclose(built(x), model(x, training=False), rtol=1e-5, atol=1e-5)


def ops(built):
    return [node.op for node in built.structure.nodes]


@pytest.mark.parametrize("name", nets.ALL)
def test_equals_keras(name):
    model = nets.ALL[name]()
    built = graph.build(model)
    assert_computes(built, model)
    assert built.structure.input_shape == model.input_shape[1:]
    assert built.structure.output_shape == (nets.CLASSES,)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_random_networks_equal_keras(seed):
    model = nets.random_sequential(np.random.default_rng(seed))
    assert_computes(graph.build(model), model)


def test_float64_forward_casts_the_weights():
    model = nets.two_conv()
    x = nets.images(model, 2)
    exact = graph.build(model)(x.astype(np.float64))
    assert exact.dtype == tf.float64
    np.testing.assert_allclose(exact, model(x), rtol=1e-4, atol=1e-5)


def test_variables_are_the_models_own_each_once():
    model = nets.residual()
    variables = graph.build(model).variables
    assert {id(v) for v in variables} == {id(v.value) for v in model.variables}
    assert len(variables) == len(model.variables)
    assert all(isinstance(v, tf.Variable) for v in variables)


def test_gradients_reach_the_model():
    model = nets.residual()
    built = graph.build(model)
    x = nets.images(model, 3)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(built(x)))
    ours = tape.gradient(loss, model.trainable_variables)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(model(x)))
    theirs = tape.gradient(loss, model.trainable_variables)
    for variable, a, b in zip(model.trainable_variables, ours, theirs, strict=True):
        assert a is not None, variable.path
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4, err_msg=variable.path)


def test_follows_the_model_as_it_changes():
    model = nets.dense()
    built = graph.build(model)
    nets.randomise(model, seed=99)
    assert_computes(built, model)


def test_one_trace_serves_every_batch_size():
    model = nets.pooling()
    built = graph.build(model)
    traces = []

    @tf.function(input_signature=[tf.TensorSpec((None, *model.input_shape[1:]))])
    def forward(x):
        traces.append(1)
        return built(x)

    for count in (1, 5):
        x = nets.images(model, count)
        np.testing.assert_allclose(forward(x), model(x), rtol=1e-5, atol=1e-5)
    assert len(traces) == 1


def test_structures_are_values():
    """Two models of one architecture share a structure, and so a compiled function."""
    first, second = (graph.build(nets.residual(seed)).structure for seed in (1, 2))
    assert [node.name for node in first.nodes] != [node.name for node in second.nodes]
    assert first == second
    assert hash(first) == hash(second)
    assert first != graph.build(nets.two_conv()).structure
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.nodes = ()


def test_nested_models_are_inlined():
    inner_inputs = keras.Input((6, 6, 4))
    inner = keras.Model(inner_inputs, layers.Conv2D(3, 2, activation="relu")(inner_inputs))
    model = keras.Sequential(
        [
            keras.Input((7, 7, 1)),
            keras.Sequential([layers.Conv2D(4, 2, activation="relu"), layers.Dropout(0.1)]),
            inner,
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    nets.randomise(model, 5)
    built = graph.build(model)
    assert_computes(built, model)
    expected = [Input, Conv2D, Relu, Conv2D, Relu, Reshape, Dense]
    assert [type(op) for op in ops(built)] == expected


def test_shared_layers_and_models_share_their_weights():
    inputs = keras.Input((4,))
    layer = layers.Dense(4, activation="relu")
    block = keras.Sequential([keras.Input((4,)), layers.Dense(4, activation="relu")])
    x = layers.Add()([block(layer(layer(inputs))), block(inputs), inputs])
    model = nets.randomise(keras.Model(inputs, layers.Dense(2)(x)), 6)
    built = graph.build(model)
    assert_computes(built, model)
    assert len(built.variables) == 6
    assert sum(isinstance(op, Dense) for op in ops(built)) == 5
    assert [op.count for op in ops(built) if isinstance(op, Add)] == [3]


def test_repeated_relus_and_identities():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dropout(0.5),
            layers.ReLU(),
            layers.Activation("relu"),
            layers.Activation("linear"),
            layers.Dense(2, activation="linear"),
            layers.Dropout(0.5),
        ]
    )
    built = graph.build(model)
    assert [type(op) for op in ops(built)] == [Input, Relu, Relu, Dense]
    assert_computes(built, model)


def test_padding_folds_into_its_only_reader():
    model = keras.Sequential(
        [
            keras.Input((5, 5, 1)),
            layers.ZeroPadding2D(1),
            layers.ZeroPadding2D(((0, 1), (2, 0))),
            layers.Conv2D(2, 3, padding="same", activation="relu"),
            layers.ZeroPadding2D(1),
            layers.AveragePooling2D(2),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    nets.randomise(model, 7)
    built = graph.build(model)
    assert_computes(built, model)
    convolution, pooling = ops(built)[1], ops(built)[3]
    assert isinstance(convolution, Conv2D)
    assert convolution.in_shape == (5, 5, 1)
    assert convolution.padding == ((2, 3), (4, 2))
    assert isinstance(pooling, Pool2D)
    assert pooling.padding == ((1, 1), (1, 1))


def test_padding_stays_where_others_read_it():
    inputs = keras.Input((4, 4, 2))
    padded = layers.ZeroPadding2D(1)(inputs)
    branch = layers.Conv2D(2, 3, padding="same")(padded)
    logits = layers.Dense(2)(layers.Flatten()(layers.Add()([branch, padded])))
    model = nets.randomise(keras.Model(inputs, logits), 8)
    built = graph.build(model)
    assert_computes(built, model)
    assert [type(op) for op in ops(built)] == [Input, Pad2D, Conv2D, Add, Reshape, Dense]


def test_training_subclasses_convert_and_own_calls_do_not():
    class OwnStep(keras.Model):
        def train_step(self, data):
            raise NotImplementedError

    class OwnCall(keras.Model):
        def call(self, x):
            return 2 * x

    inputs = keras.Input((3,))
    model = OwnStep(inputs, layers.Dense(2)(inputs))
    assert_computes(graph.build(model), model)
    with pytest.raises(graph.UnsupportedLayerError, match="'mine' of type OwnCall"):
        graph.build(OwnCall(name="mine"))


def test_logits_may_be_an_early_layer_read_through_an_identity():
    inputs = keras.Input((3,))
    logits = layers.Dropout(0.5)(layers.Dense(2)(inputs))
    model = keras.Model(inputs, logits)
    assert_computes(graph.build(model), model)


def refused_models():
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    image = keras.Input((4, 4, 1))
    yield "two inputs", keras.Model([a, b], layers.Add()([a, b])), "expected one input, got 2"
    outputs = [layers.Dense(2)(a), layers.Dense(2)(a)]
    yield "two outputs", keras.Model(a, outputs), "expected one output, got 2"
    yield "image output", keras.Model(image, layers.Conv2D(1, 2, name="last")(image)), "'last'"
    free = keras.Input((None, 4, 1))
    pooled = layers.Conv2D(1, 2)(free)
    yield "unknown size", keras.Model(free, pooled), "known but for the batch"
    yield "not built", keras.Sequential([layers.Dense(2)]), "is not built"
    trained = layers.BatchNormalization(name="batch")(a, training=True)
    yield "training", keras.Model(a, trained), "'batch' of type BatchNormalization: it is called"
    yield "operation", keras.Model(a, a + 1.0), "of type Add: it is an operation on tensors"
    unequal = layers.Add(name="sum")([layers.Dense(1)(a), a])
    yield "broadcast", keras.Model(a, unequal), "'sum' of type Add: its inputs have shapes"
    inner = keras.Model([a, b], layers.Add()([a, b]), name="inner")
    yield "nested", keras.Model(a, inner([a, a])), "'inner' of type Functional"


@pytest.mark.parametrize("name", [name for name, _, _ in refused_models()])
def test_refuses_by_name(name):
    model, message = next((m, text) for n, m, text in refused_models() if n == name)
    with pytest.raises(ValueError) as error:
        graph.build(model)
    assert message in str(error.value)


def test_refuses_what_is_no_model():
    with pytest.raises(TypeError, match=r"expected a keras\.Model, got int"):
        graph.build(3)
    with pytest.raises(graph.UnsupportedLayerError, match="'alone' of type Dense"):
        graph.build(layers.Dense(2, name="alone"))


NODE = Node(Dense(3, 2), (0,), (0, 1), "dense")


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ((), "expected an Input first"),
        ((NODE,), "expected an Input first"),
        ((Node(Input((3,))), Node(Input((3,)))), "expected a Relu or an AffineOp"),
        ((Node(Input((3,))), dataclasses.replace(NODE, inputs=(1,))), "earlier nodes"),
        ((Node(Input((3,))), dataclasses.replace(NODE, inputs=(0, 0))), "expected 1 earlier"),
        ((Node(Input((4,))), NODE), r"expected inputs of shape \(3,\)"),
        ((Node(Input((3,))), dataclasses.replace(NODE, weights=(0,))), "expected 2 weights"),
    ],
)
def test_structures_check_their_nodes(nodes, message):
    with pytest.raises(ValueError, match=message):
        Structure(nodes)


def test_graphs_check_their_variables():
    structure = Structure((Node(Input((3,))), NODE))
    kernel, bias = tf.Variable(tf.zeros((3, 2))), tf.Variable(tf.zeros((2,)))
    assert structure.variable_count == 2
    Graph(structure, (kernel, bias))
    with pytest.raises(ValueError, match="expected 2, got 1"):
        Graph(structure, (kernel,))
    with pytest.raises(ValueError, match="dense expects weights of shapes"):
        Graph(structure, (bias, kernel))


def test_only_affine_nodes_give_an_affine_operation():
    dense = Dense(2, 3)
    assert Node(dense, (0,), (0, 1)).affine is dense
    for op in (Input((2,)), Relu((2,))):
        with pytest.raises(TypeError, match=f"a: expected an AffineOp, got {type(op).__name__}"):
            _ = Node(op, name="a").affine


def test_relus_and_consumers_index_the_nodes():
    structure = graph.build(nets.residual()).structure
    assert all(isinstance(structure.nodes[i].op, Relu) for i in structure.relus)
    assert len(structure.relus) == 3
    stem = structure.relus[0]
    assert len(structure.consumers[stem]) == 2
    assert structure.consumers[-1] == ()
    for index, readers in enumerate(structure.consumers):
        assert all(index in structure.nodes[reader].inputs for reader in readers)
