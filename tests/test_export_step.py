"""The step written as a module for other machines."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks import export_step
from robustra_tf.cli import command
from robustra_tf.training.pure_step import PureStep
from tests import nets


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A small step, its arguments, and the folder that it was written to."""
    out = tmp_path_factory.mktemp("export")
    pure = PureStep(nets.shallow(1), nets.shallow(2), keras.optimizers.Adam(0.1))
    rng = np.random.default_rng(0)
    x = tf.constant(rng.uniform(size=(4, 5)), tf.float32)
    y = tf.constant([0, 1, 2, 0])
    numbers = tf.constant(0.1), tf.constant(0.01), tf.constant([0, 0])
    arguments = (pure.state(), x, y, pure.reference(), *numbers)
    export_step.export(pure, arguments, out)
    return pure, arguments, out


def test_the_saved_inputs_are_the_modules_parameters(exported):
    _, arguments, out = exported
    taken = export_step.parameters((out / export_step.MODULE).read_text())
    names = json.loads((out / export_step.SIGNATURE).read_text())
    with np.load(out / export_step.CALL) as saved:
        inputs = [saved[f"in_{k}"] for k in range(len(taken))]
        assert f"in_{len(taken)}" not in saved
        outputs = [name for name in saved if name.startswith("out_")]
    assert [(value.dtype.name, value.shape) for value in inputs] == taken
    assert len(names["inputs"]) == len(inputs)
    assert len(names["outputs"]) == len(outputs)
    for value, argument in zip(inputs, tf.nest.flatten(arguments), strict=True):
        np.testing.assert_array_equal(value, argument)


def test_the_saved_outputs_are_the_steps_and_feed_the_next_one(exported):
    pure, arguments, out = exported
    (weights, state), metrics = pure(*arguments)
    names = json.loads((out / export_step.SIGNATURE).read_text())
    with np.load(out / export_step.CALL) as saved:
        results = {name: saved[f"out_{k}"] for k, name in enumerate(names["outputs"])}
        inputs = {name: saved[f"in_{k}"] for k, name in enumerate(names["inputs"])}
    for name, value in metrics.items():
        np.testing.assert_array_equal(results[f"metrics/{name}"], value)
    for kind, values in (("weights", weights), ("state", state)):
        for k, value in enumerate(values):
            np.testing.assert_array_equal(results[f"{kind}/{k}"], value)
    carried = len(weights) + len(state)
    assert names["outputs"][:carried] == names["inputs"][:carried]
    for name in names["inputs"][:carried]:
        assert results[name].shape == inputs[name].shape
        assert results[name].dtype == inputs[name].dtype
    assert results["state/0"] == 1


def test_a_text_that_is_no_module_is_refused():
    with pytest.raises(ValueError, match="@main"):
        export_step.parameters("module {}")
    with pytest.raises(ValueError, match="got ui8"):
        export_step.parameters("func.func @main(%arg0: tensor<2xui8>) -> (tensor<f32>)")


def test_an_export_needs_a_folder():
    with pytest.raises(SystemExit):
        command.read(export_step.Config, "export_step", "text", [])
