"""Keras's habits in `fit`: weights of examples, one-hot labels, metrics, saving, XLA."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import robustra_tf as rt
from tests import nets

pytestmark = pytest.mark.usefixtures("eagerly")

COUNT, EPS = 6, 0.05
Y = np.array([0, 1, 2, 0, 1, 1])
WEIGHTS = np.array([0.5, 2.0, 0.0, 1.0, 3.0, 0.25], "float32")
CLASSES = {0: 0.5, 1: 2.0, 2: 3.0}
ONE_HOT = np.eye(nets.CLASSES, dtype="float32")[Y]


def fitted(method="ibp", radius=EPS, y=Y, options=None, **given):
    """A network after one step, and what `fit` reported."""
    model = nets.dense(2)
    certified = rt.CertifiedModel(model, method, EPS, options=options or rt.StepOptions())
    certified.compile(keras.optimizers.SGD(0.1))
    certified.radius.assign(radius)
    x = nets.images(model, COUNT, seed=4)
    logs = certified.fit(x, y, shuffle=False, verbose=0, **given).history
    return model, logs


def assert_same(ours, theirs):
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("y", "given"),
    [
        (Y, {"class_weight": CLASSES}),
        (ONE_HOT, {"sample_weight": WEIGHTS, "batch_size": 4}),
    ],
)
def test_at_radius_zero_the_weighted_loss_is_keras_own(y, given):
    ours, logs = fitted(radius=0.0, y=y, **given)
    theirs = nets.dense(2)
    loss = "CategoricalCrossentropy" if y is ONE_HOT else "SparseCategoricalCrossentropy"
    theirs.compile(keras.optimizers.SGD(0.1), getattr(keras.losses, loss)(from_logits=True))
    x = nets.images(theirs, COUNT, seed=4)
    expected = theirs.fit(x, y, shuffle=False, verbose=0, **given).history["loss"]
    assert logs["loss"] == pytest.approx(expected, rel=1e-5)
    assert_same(ours, theirs)


def test_class_weights_are_weights_of_examples_and_one_hot_rows_integers():
    each = np.array([CLASSES[label] for label in Y], "float32")
    ours, logs = fitted(class_weight=CLASSES)
    theirs, other = fitted(y=ONE_HOT.astype(int), sample_weight=each)
    assert_same(ours, theirs)
    assert other["loss"] == pytest.approx(logs["loss"], rel=1e-6)
    # The accuracies count every example once.
    assert other["certified_accuracy"] == logs["certified_accuracy"]


def test_a_batch_in_pieces_weights_its_examples_alike():
    (ours, logs), (theirs, whole) = (
        fitted(options=rt.StepOptions.of(microbatch=size, regulariser=0.5), sample_weight=WEIGHTS)
        for size in (4, 0)
    )
    assert_same(ours, theirs)
    assert logs["loss"] == pytest.approx(whole["loss"], rel=1e-5)


@pytest.fixture(scope="module")
def measured():
    """A model with further metrics, a plain one with the same, and images."""
    models = nets.dense(2), nets.dense(2)
    certified = rt.CertifiedModel(models[0], "ibp", EPS)
    for model, further in (
        (certified, {}),
        (models[1], {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}),
    ):
        model.compile(
            keras.optimizers.SGD(0.0),
            metrics=[keras.metrics.SparseTopKCategoricalAccuracy(2, name="top")],
            weighted_metrics=[
                keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="entropy")
            ],
            **further,
        )
    return certified, models[1], nets.images(models[0], COUNT, seed=4)


def test_further_metrics_are_keras_own(measured):
    certified, plain, x = measured
    for way in ("evaluate", "fit"):
        ours, theirs = (
            getattr(model, way)(
                x,
                Y,
                sample_weight=WEIGHTS,
                verbose=0,
                batch_size=4,
                **{"shuffle": False} if way == "fit" else {"return_dict": True},
            )
            for model in (certified, plain)
        )
        ours, theirs = (getattr(found, "history", found) for found in (ours, theirs))
        assert {*ours} == {"loss", "accuracy", "certified_accuracy", "top", "entropy"}
        for name in ("top", "entropy"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5)
    assert len(certified.evaluate(x, Y, verbose=0)) == 5
    # Of the last epoch, not of all.
    assert certified.evaluate(x, Y, verbose=0, return_dict=True)["top"] == pytest.approx(
        plain.evaluate(x, Y, verbose=0, return_dict=True)["top"]
    )


def test_what_was_saved_whole_evaluates_the_same_and_trains_on(tmp_path):
    """Of `robustra`, which has a reference to keep."""
    method, reference = "robustra", nets.dense(12)
    options = rt.StepOptions.of(clip_norm=5.0, inner="interval", clean_share=0.25)
    certified = rt.CertifiedModel(nets.dense(2), method, EPS, reference=reference, options=options)
    certified.compile(keras.optimizers.Adam(0.01))
    x = nets.images(certified.network, COUNT, seed=4)
    ramp = rt.EpsilonSchedule(warmup_epochs=4)
    certified.fit(x, Y, epochs=2, verbose=0, callbacks=[ramp])
    certified.save(tmp_path / "whole.keras")
    loaded = keras.models.load_model(tmp_path / "whole.keras")
    assert (loaded.method, loaded.eps, loaded.name) == (method, EPS, certified.name)
    assert float(loaded.radius) == float(certified.radius) < EPS
    assert loaded.get_config()["options"] == certified.get_config()["options"]
    assert loaded.get_compile_config() == certified.get_compile_config()
    before, after = (m.evaluate(x, Y, verbose=0) for m in (certified, loaded))
    assert before == after
    for model in (certified, loaded):
        model.fit(x, Y, epochs=4, initial_epoch=2, shuffle=False, verbose=0, callbacks=[ramp])
    for mine, other in zip(certified.network.weights, loaded.network.weights, strict=True):
        np.testing.assert_array_equal(mine, other)
    assert int(loaded.optimizer.iterations) == 4
    assert float(loaded.radius) == float(certified.radius)
    alone = rt.CertifiedModel(nets.dense(2), "wong", EPS)
    certified.save_weights(tmp_path / "these.weights.h5")
    with pytest.raises(ValueError, match="expected a radius and 0 weights of a reference"):
        alone.load_weights(tmp_path / "these.weights.h5")


@pytest.mark.traced
def test_what_xla_compiles_is_the_same_step():
    """Of `mtl_ibp`, which attacks within a loop and bounds by intervals."""
    x, logs, models = nets.images(nets.dense(2), COUNT, seed=4), [], []
    options = rt.StepOptions.of(attack_steps=2, clean_share=0.25)
    for jit in (False, True):
        model = nets.dense(2)
        certified = rt.CertifiedModel(model, "mtl_ibp", EPS, options=options)
        certified.compile(keras.optimizers.SGD(0.1), jit_compile=jit)
        certified.radius.assign(0.5 * EPS)
        keras.utils.set_random_seed(1)
        logs.append(certified.fit(x, Y, sample_weight=WEIGHTS, shuffle=False, verbose=0).history)
        models.append(model)
    assert_same(*models)
    for name, values in logs[0].items():
        assert logs[1][name] == pytest.approx(values, rel=1e-4, abs=1e-6)
    with pytest.raises(ValueError, match=r"^x must lie in the box"):
        certified.fit(255 * x, Y, verbose=0)


@pytest.fixture(scope="module")
def learner():
    """A compiled model and its images."""
    certified = rt.CertifiedModel(nets.dense(2), "natural", EPS)
    certified.compile(keras.optimizers.SGD(0.1))
    return certified, nets.images(certified.network, COUNT, seed=4)


ONE_HOT_ROWS = r"y must be one-hot rows, a single 1 and 0 elsewhere, got the row \["
WEIGHT_VALUES = r"sample_weight must be finite and at least 0, got values in "
BAD = {
    "rows of another number": ({"y": 2 * ONE_HOT}, ONE_HOT_ROWS),
    "two ones": ({"y": np.maximum(ONE_HOT, np.roll(ONE_HOT, 1, 1))}, ONE_HOT_ROWS),
    "soft labels": ({"y": 0.9 * ONE_HOT + 0.1 / 3}, ONE_HOT_ROWS),
    "no one": ({"y": 0 * ONE_HOT}, ONE_HOT_ROWS),
    "rows of NaN": ({"y": np.nan * ONE_HOT}, ONE_HOT_ROWS),
    "rows of another length": (
        {"y": np.eye(4, dtype=int)[Y]},
        r"y must be one integer .*\[n, 3\], got .*6,? 4",
    ),
    "a weight of NaN": ({"sample_weight": np.where(Y == 2, np.nan, WEIGHTS)}, WEIGHT_VALUES),
    "a weight below 0": ({"sample_weight": -WEIGHTS}, WEIGHT_VALUES + r"\[-3, "),
    "an infinite weight": ({"sample_weight": np.where(Y == 2, np.inf, WEIGHTS)}, WEIGHT_VALUES),
    "weights of classes": ({"sample_weight": ONE_HOT}, r"sample_weight must be one .*each image"),
    "weights of other length": ({"sample_weight": WEIGHTS[:4]}, r"cardinality is ambiguous"),
    "a class weight below 0": ({"class_weight": {1: -1.0}}, WEIGHT_VALUES),
}


@pytest.mark.traced
def test_labels_of_every_form_are_the_same_labels(learner):
    """One after another: Keras traces a step for shapes that are not known."""
    certified, x = learner
    rows = np.eye(nets.CLASSES)[Y]
    forms = (Y, rows.astype(int), Y[:, None], rows.astype(int), rows > 0, ONE_HOT)
    found = [certified.evaluate(x, y, verbose=0) for y in forms]
    assert found == [found[0]] * len(forms)
    for y in (Y[:, None], rows.astype(int), Y, rows > 0):
        assert np.isfinite(certified.fit(x, y, verbose=0).history["loss"]).all()
    for y, told in (
        (Y > 0, "y must be integer labels, got bool"),
        (ONE_HOT[:, 0], "y must be integer labels, got float32"),
        (2**32 * rows.astype(int), ONE_HOT_ROWS),
        (~(rows > 0), ONE_HOT_ROWS),
    ):
        with pytest.raises(ValueError, match=f"^{told}"):
            certified.evaluate(x, y, verbose=0)


def test_a_radius_of_zero_is_no_number_of_255ths():
    with pytest.raises(ValueError, match=r"^eps must be above 0 and at most 1, in pixels, got 0$"):
        rt.CertifiedModel(nets.dense(2), "natural", 0)


@pytest.mark.parametrize("name", BAD)
def test_weights_and_rows_that_are_none_are_refused_in_one_line(learner, name):
    certified, x = learner
    change, told = BAD[name]
    with pytest.raises(ValueError, match=told) as raised:
        certified.fit(**{"x": x, "y": Y, "verbose": 0} | change)
    if "cardinality" not in told:  # Keras's own says it in several
        assert "\n" not in str(raised.value)


def test_weights_that_only_a_step_can_count_are_refused_in_it(learner):
    certified, x = learner
    sizes = (tf.TensorSpec((None, 5)), tf.TensorSpec((None,), tf.int64), tf.TensorSpec((None,)))
    data = tf.data.Dataset.from_generator(lambda: [(x, Y, WEIGHTS[:4])], output_signature=sizes)
    with pytest.raises(
        ValueError, match=r"^sample_weight must be one for each image, got 6 images"
    ):
        certified.fit(data, verbose=0)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"metrics": ["accuracy"]}, "metrics must be called otherwise than .*, got 'accuracy'"),
        (
            {"weighted_metrics": [keras.metrics.Mean(name="loss")]},
            "weighted_metrics must be called otherwise .*, got 'loss'",
        ),
        ({"jit_compile": True}, "jit_compile must be False for method 'wong': how many rows"),
    ],
)
def test_what_compile_cannot_do_is_named(arguments, told):
    with pytest.raises(ValueError, match=told):
        rt.CertifiedModel(nets.dense(2), "wong", EPS).compile("sgd", **arguments)


def test_a_configuration_of_something_else_is_refused():
    config = rt.CertifiedModel(nets.dense(2), "ibp", EPS).get_config()
    config["options"]["losses"]["shares"] = 1.0
    with pytest.raises(ValueError, match=r"config: no CertifiedModel's: .*'shares'"):
        rt.CertifiedModel.from_config(config)
