"""What moves and averages weights, against recursions in NumPy."""

import keras
import numpy as np
import pytest

import robustra_tf as rt
from robustra_tf import data
from robustra_tf.batches import TrainingBatches
from robustra_tf.training import optimizers, schedules
from robustra_tf.training.averaging import Averaged
from tests import nets

pytestmark = pytest.mark.usefixtures("eager")
SHAPE, STEPS = (3, 2), 9


def applied(optimizer, start, gradients):
    """The weights after every step."""
    variable = keras.Variable(start, dtype="float32")
    optimizer.build([variable])
    found = []
    for gradient in gradients:
        optimizer.apply([np.asarray(gradient, np.float32)], [variable])
        found.append(variable.numpy())
    return found


@pytest.fixture
def drawn(rng):
    return rng.normal(size=SHAPE), rng.normal(size=(STEPS, *SHAPE))


@pytest.mark.parametrize("beta_2", [0.999, 0.8])
def test_rectified_adam_is_the_papers_recursion(beta_2, drawn):
    """Algorithm 2 of Liu et al. 2020, with epsilon beside the root; both kinds of steps occur."""
    (weight, gradients), beta_1, lr, epsilon = drawn, 0.9, 0.05, 1e-7
    m, v, wanted, kinds = np.zeros(SHAPE), np.zeros(SHAPE), [], set()
    longest = 2 / (1 - beta_2) - 1
    for t, g in enumerate(gradients, start=1):
        v = beta_2 * v + (1 - beta_2) * g**2
        m = beta_1 * m + (1 - beta_1) * g
        unbiased = m / (1 - beta_1**t)
        length = longest - 2 * t * beta_2**t / (1 - beta_2**t)
        kinds.add(length > 4)
        if length > 4:
            second = np.sqrt(v / (1 - beta_2**t))
            r = (length - 4) * (length - 2) * longest
            r = np.sqrt(r / ((longest - 4) * (longest - 2) * length))
            weight = weight - lr * r * unbiased / (second + epsilon)
        else:
            weight = weight - lr * unbiased
        wanted.append(weight)
    assert kinds == {False, True}
    found = applied(rt.RAdam(lr, beta_2=beta_2), *drawn)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_decoupled_decay_shrinks_the_weights_themselves(drawn):
    """Loshchilov and Hutter's: Adam's moves, and less by the rate times the decay in each step."""
    (weight, gradients), lr, decay = drawn, 0.05, 0.4
    adam = applied(keras.optimizers.Adam(lr), weight, gradients)
    moves = np.diff([weight, *adam], axis=0)
    wanted = []
    for move in moves:
        weight = (1 - lr * decay) * weight + move
        wanted.append(weight)
    found = applied(optimizers.make("adamw", lr, weight_decay=decay), *drawn)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_rectified_adam_is_kept_by_keras(tmp_path):
    certified = rt.CertifiedModel(nets.dense(2), "ibp", 0.05)
    certified.compile(rt.RAdam(0.01, beta_2=0.9))
    certified.save(tmp_path / "whole.keras")
    loaded = keras.models.load_model(tmp_path / "whole.keras")
    assert type(loaded.optimizer) is rt.RAdam
    assert loaded.optimizer.get_config() == certified.optimizer.get_config()
    for options, message in (({"amsgrad": True}, "amsgrad"), ({"beta_2": 0.5}, "beta_2 must be")):
        with pytest.raises(ValueError, match=message):
            rt.RAdam(**options)


@pytest.mark.parametrize("name", optimizers.NAMES)
def test_averages_are_the_recursion_over_the_weights(name, drawn):
    optimizer = optimizers.make(name, 0.05, 0.9, average=0.7)
    weights = applied(optimizer, *drawn)
    average = weights[0]
    for weight in weights[1:]:
        average = 0.7 * average + 0.3 * weight
    (found,) = optimizers.averages(optimizer, 1)
    np.testing.assert_allclose(found, average, rtol=1e-5)
    assert not np.allclose(average, weights[-1])


def examples(model, count=12):
    x = nets.images(model, count, seed=3)
    return data.Dataset(x, np.arange(count, dtype=np.int32) % nets.CLASSES)


def test_a_run_is_tested_with_the_averages_and_ends_with_them():
    """Step by step beside one without averages, whose weights are averaged by hand."""
    plan = {"eps": 0.02, "epochs": 1, "method": "ibp", "batch_size": 4, "lr": 0.05}
    given = examples(nets.dense(2))
    averaged, lone = nets.dense(2), nets.dense(2)
    seen = []

    class Recorded(keras.optimizers.Adam):
        def apply(self, *arguments):
            super().apply(*arguments)
            seen.append([v.numpy() for v in lone.trainable_variables])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rt.TrainingPlan, "make_optimizer", lambda self: Recorded(self.lr))
        rt.train(lone, given, rt.TrainingPlan.of(**plan), test=given)
    history = rt.train(averaged, given, rt.TrainingPlan.of(**plan, ema=0.6), test=given)
    assert len(seen) == 3
    wanted = seen[0]
    for step in seen[1:]:
        wanted = [0.6 * a + 0.4 * w for a, w in zip(wanted, step, strict=True)]
    for mine, average in zip(averaged.trainable_variables, wanted, strict=True):
        np.testing.assert_allclose(mine, average, rtol=1e-4, atol=1e-6)
    found = rt.certify(averaged, *given, eps=0.02, method="interval")
    assert history.series("test_interval_error") == [pytest.approx(1 - found.certified.mean())]


def test_each_network_of_a_pair_has_averages_of_its_own():
    f, g = nets.dense(2), nets.dense(5)
    given = examples(f)
    plan = rt.TrainingPlan.of(eps=0.02, epochs=2, batch_size=6, lr=0.05, ema=0.5)
    history = rt.train_pair(f, g, given, plan, test=given)
    for name, model in (("f", f), ("g", g)):
        found = rt.certify(model, *given, eps=0.02, box=None, inner="dual")
        wanted = pytest.approx(1 - found.certified.mean())
        assert history.series("test_lp_error", name)[-1] == wanted
    assert not np.allclose(f.get_weights()[0], g.get_weights()[0])


def test_normalisations_of_averages_take_the_statistics_of_images():
    model = nets.batch_norm(2)
    given = examples(model, 8)
    plan = rt.TrainingPlan.of(eps=0.01, epochs=1, method="natural", batch_size=4, lr=0.05, ema=0.5)
    optimizer = plan.make_optimizer()
    optimizer.build(model.trainable_variables)
    slopes = [np.full(v.shape, 0.1, np.float32) for v in model.trainable_variables]
    optimizer.apply(slopes, model.trainable_variables)
    averaged, before = Averaged.of(model, optimizer), model.get_weights()
    averaged.refresh(given.images)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    first = next(
        layer
        for layer in averaged.copy.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    )
    entering = keras.Model(averaged.copy.inputs, first.input)(given.images).numpy()
    axes = tuple(range(entering.ndim - 1))
    np.testing.assert_allclose(first.moving_mean, entering.mean(axes), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(first.moving_variance, entering.var(axes), rtol=1e-4, atol=1e-5)
    averaged.settle()
    for mine, other in zip(model.get_weights(), averaged.copy.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_keras_fit_ends_with_its_optimizers_averages():
    certified = rt.CertifiedModel(nets.dense(2), "ibp", 0.05)
    certified.compile(optimizers.make("radam", 0.05, average=0.5))
    given = examples(certified.network)
    certified.fit(*given, batch_size=4, verbose=0)
    trained = certified.network.trainable_variables
    averages = optimizers.averages(certified.optimizer, len(trained))
    for mine, average in zip(trained, averages, strict=True):
        np.testing.assert_array_equal(mine, average)


def test_drops_are_where_they_are_said_to_be():
    rates = [schedules.dropped(epoch, 2.0, (3, 5), 0.1) for epoch in range(7)]
    np.testing.assert_allclose(rates, [2, 2, 2, 0.2, 0.2, 0.02, 0.02], rtol=1e-12)
    plan = rt.TrainingPlan.of(
        eps=0.1, epochs=7, lr=2.0, lr_schedule="drops", lr_drops=[3, 5], lr_factor=0.1
    )
    assert [plan.learning_rate(epoch) for epoch in range(7)] == rates
    assert rt.TrainingPlan.of(**plan.settings()) == plan
    assert plan.prolongs(6) is False
    assert rt.TrainingPlan.of(**plan.settings() | {"eps_warmup_epochs": 2}).prolongs(6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr_schedule": "drops"}, "lr_drops must be epochs with lr_schedule 'drops', got \\(\\)"),
        ({"lr_drops": (2,)}, "lr_drops must be none with lr_schedule 'halving', got \\(2,\\)"),
        ({"lr_schedule": "drops", "lr_drops": (2, 2)}, "lr_drops must be rising epochs from 1"),
        ({"lr_factor": 1.5}, "lr_factor must be above 0 and at most 1, got 1.5"),
        ({"ema": 1.0}, "ema must be at least 0 and below 1, got 1.0"),
        ({"l1": -1.0}, "l1 must be at least 0, got -1.0"),
        ({"attack_ratio": 0.0}, "attack_ratio must be above 0, got 0.0"),
        ({"order_seed": -1}, "order_seed must be at least 0, got -1"),
        ({"validation": -1}, "validation must be at least 0, got -1"),
    ],
)
def test_a_setting_out_of_its_range_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        rt.TrainingPlan.of(**{"eps": 0.1, "epochs": 3} | settings)


def test_order_and_augmentation_have_seeds_of_their_own():
    images = np.random.default_rng(0).uniform(size=(12, 4, 4, 1)).astype(np.float32)
    given = data.Dataset(images, np.arange(12, dtype=np.int32))

    def epoch(seed, augmentation):
        batches = TrainingBatches(given, 4, seed, 1, False, augmentation)
        parts = list(batches.epoch(0))
        return np.concatenate([y for _, y in parts]), np.concatenate([x for x, _ in parts])

    (order, seen), (same, alike), (other, _) = epoch(1, 1), epoch(1, 2), epoch(2, 1)
    np.testing.assert_array_equal(order, same)
    assert not np.array_equal(seen, alike)
    assert not np.array_equal(order, other)
    for mine, default in zip(epoch(1, None), (order, seen), strict=True):
        np.testing.assert_array_equal(mine, default)
