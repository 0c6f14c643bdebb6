"""A network of digits trained by Keras's `fit`, with Keras's callbacks and the radius's ramp."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import robustra_tf as rt
from tests import nets

EPS = 0.01


class Counted(rt.CertifiedModel):
    """Counts its traces: Keras calls these only where it traces them."""

    trained = tested = 0

    def train_step(self, data):
        self.trained += 1
        return super().train_step(data)

    def test_step(self, data):
        self.tested += 1
        return super().test_step(data)


def digits(part, count):
    return rt.data.load("digits", part, count)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A network of digits trained with Keras's callbacks: what it was, logged and left."""
    folder = tmp_path_factory.mktemp("fit")
    network = rt.models.build("digits_small", seed=1)
    certified = Counted(network, "ibp", EPS)
    certified.compile(keras.optimizers.Adam(1e-2))
    radii = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: radii.append(float(certified.radius))
    )
    x, y = digits("train", 630)
    history = certified.fit(
        x,
        y,
        batch_size=50,
        epochs=6,
        validation_data=digits("test", 120),
        verbose=0,
        callbacks=[
            rt.EpsilonSchedule(warmup_epochs=3, start=0.002),
            keras.callbacks.TensorBoard(folder / "logs"),
            keras.callbacks.ModelCheckpoint(
                folder / "best.weights.h5",
                monitor="val_certified_accuracy",
                mode="max",
                save_best_only=True,
                save_weights_only=True,
            ),
            record,
        ],
    )
    return certified, history.history, radii, folder


def test_fit_learns_and_its_certified_accuracy_is_certifys(fitted):
    certified, logs, _, _ = fitted
    assert logs["loss"][-1] < 0.7 * logs["loss"][0]
    assert logs["val_certified_accuracy"][-1] > logs["val_certified_accuracy"][0] + 0.2
    x, y = digits("test", 120)
    certificate = rt.certify(certified.network, x, y, EPS, method="interval")
    assert 0 < certificate.certified.sum() < len(y)
    found = certified.evaluate(x, y, verbose=0, return_dict=True)
    assert found["certified_accuracy"] == pytest.approx(certificate.certified.mean(), abs=1e-6)
    assert found["accuracy"] == pytest.approx((certificate.predicted == y).mean(), abs=1e-6)
    assert logs["val_certified_accuracy"][-1] == pytest.approx(found["certified_accuracy"])
    metric = rt.metrics.CertifiedAccuracy()
    for part in (slice(50), slice(50, None)):
        metric.update_state(y[part], -certificate.margin_lower[part])
    assert float(metric.result()) == pytest.approx(certificate.certified.mean(), abs=1e-6)


def test_the_radius_goes_up_step_by_step(fitted):
    _, logs, radii, _ = fitted
    steps = 13  # of 630 examples in batches of 50
    ramp = 0.002 + (EPS - 0.002) * np.arange(3 * steps) / (3 * steps)
    expected = np.concatenate([ramp, np.full(3 * steps, EPS)])
    np.testing.assert_allclose(radii, expected, rtol=1e-6)
    np.testing.assert_allclose(logs["eps"], expected[steps - 1 :: steps], rtol=1e-6)


def test_nothing_is_traced_again(fitted):
    """One trace for epochs, radii and the smaller batch at an epoch's end."""
    certified, *_ = fitted
    assert (certified.trained, certified.tested) == (1, 1)


def test_tensorboard_has_the_certified_accuracy(fitted):
    _, logs, _, folder = fitted
    for part, prefix in (("train", ""), ("validation", "val_")):
        events = EventAccumulator(str(folder / "logs" / part), {"tensors": 0})
        events.Reload()
        found = events.Tensors("epoch_certified_accuracy")
        values = [float(tf.make_ndarray(event.tensor_proto)) for event in found]
        np.testing.assert_allclose(values, logs[f"{prefix}certified_accuracy"], rtol=1e-6)


def test_the_best_checkpoint_comes_back(fitted, tmp_path):
    _, logs, _, folder = fitted
    other = rt.CertifiedModel(rt.models.build("digits_small", seed=9), "ibp", EPS)
    other.compile("adam")
    other.load_weights(folder / "best.weights.h5")
    found = other.evaluate(*digits("test", 120), verbose=0, return_dict=True)
    best = int(np.argmax(logs["val_certified_accuracy"]))
    assert found["certified_accuracy"] == pytest.approx(logs["val_certified_accuracy"][best])
    assert float(other.radius) == pytest.approx(logs["eps"][best])

    x, _ = digits("test", 3)
    other.network.save(tmp_path / "network.keras")
    alone = keras.models.load_model(tmp_path / "network.keras")
    np.testing.assert_array_equal(alone(x), other.predict(x, verbose=0))


def test_early_stopping_stops_and_restores():
    """The weights are ruined after the first epoch, which is then the best one."""
    model = nets.dense(35)
    x = nets.images(model, 30, seed=5)
    y = model.predict(x, verbose=0).argmax(1)
    certified = rt.CertifiedModel(model, "ibp", 0.02)
    certified.compile(keras.optimizers.SGD(0.0))
    stop = keras.callbacks.EarlyStopping(
        "val_certified_accuracy", mode="max", patience=2, restore_best_weights=True
    )
    ruin = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: epoch and model.set_weights([0 * w for w in start])
    )
    start = model.get_weights()
    logs = certified.fit(
        x, y, epochs=9, validation_data=(x, y), verbose=0, callbacks=[ruin, stop]
    ).history
    # All logits equal prove nothing: a tie is no win.
    assert logs["val_certified_accuracy"][0] > 0
    assert logs["val_certified_accuracy"][1:] == [0.0, 0.0]
    for ours, first in zip(model.get_weights(), start, strict=True):
        np.testing.assert_array_equal(ours, first)
