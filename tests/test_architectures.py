"""Architectures for images of any size: their counts, and a network of one all the way."""

import numpy as np
import pytest

import robustra_tf as rt
from robustra_tf import graph, vocabulary
from tests.test_train_intervals import trained
from train import config as configs

SHAPES = {"digits": (8, 8, 1), "mnist": (28, 28, 1), "cifar10": (32, 32, 3)}
#: By name: (filters, kernel, stride, padding) of each convolution, and hidden units; as published.
LAYERS = {
    "cnn3": ([(16, 5, 2, 2), (32, 4, 2, 1)], []),
    "cnn5": ([(16, 3, 1, 1), (16, 4, 2, 1), (32, 4, 2, 1)], [512]),
    "cnn7": (
        [(64, 3, 1, 1), (64, 3, 1, 1), (128, 3, 2, 1), (128, 3, 1, 1), (128, 3, 1, 1)],
        [512],
    ),
}


def counts(name, shape, width=1.0, batch_norm=False):
    """Trained weights and hidden units of the published layers, `width` times as wide."""
    side, _, depth = shape
    weights, units, hidden = 0, 0, []
    convolutions, dense = LAYERS[name]
    for filters, kernel, stride, padding in convolutions:
        filters = round(filters * width)
        weights += (kernel * kernel * depth + 1) * filters
        side, depth = (side + 2 * padding - kernel) // stride + 1, filters
        units += side * side * depth
        hidden.append(depth)
    size = side * side * depth
    for wide in [*(round(wide * width) for wide in dense), 10]:
        weights += (size + 1) * wide
        size = wide
        hidden.append(wide)
    units += sum(hidden[len(convolutions) : -1])
    # A scale and a shift of every channel, behind all layers but the logits.
    return weights + 2 * sum(hidden[:-1]) * batch_norm, units


def test_the_widest_one_has_the_published_size():
    """17.2 million weights and 229,888 ReLUs on CIFAR-10."""
    assert counts("cnn7", SHAPES["cifar10"]) == (17_190_602, 229_888)
    model = rt.models.build("cnn7", seed=0, shape=SHAPES["cifar10"])
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == 17_190_602


@pytest.mark.parametrize("name", vocabulary.SIZED_BY_IMAGE)
@pytest.mark.parametrize("data", SHAPES)
def test_layers_are_the_published_ones(name, data):
    shape = SHAPES[data]
    for width, batch_norm in ((0.25, False), (0.125, True)):
        model = rt.models.build(name, 1, batch_norm=batch_norm, shape=shape, width=width)
        found = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
        structure = graph.build(model).structure
        units = sum(int(np.prod(structure.nodes[i].op.out_shape)) for i in structure.relus)
        assert (found, units) == counts(name, shape, width, batch_norm)
        assert structure.input_shape == shape
    x = np.random.default_rng(0).uniform(size=(2, *shape)).astype(np.float32)
    logits = model(x, training=False)
    np.testing.assert_allclose(graph.build(model)(x), logits, rtol=1e-4, atol=1e-4)


def test_every_width_leaves_a_filter_and_other_architectures_have_widths_too():
    thin = rt.models.build("cnn5", seed=0, shape=(8, 8, 1), width=0.01)
    assert thin.get_layer("conv1").filters == 1
    assert thin.get_layer("dense1").units == 5
    wide = rt.models.build("digits_small", seed=0, width=2.0)
    assert wide.get_layer("conv2").filters == 64
    assert rt.models.build("digits_small", seed=0).get_layer("conv2").filters == 32


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("cnn7", {}, r"shape: expected \(h, w, c\) of 4 pixels a side or more for cnn7; got None"),
        ("cnn7", {"shape": (3, 8, 1)}, "shape: expected"),
        ("mnist_small", {"shape": (8, 8, 1)}, r"shape: expected \(28, 28, 1\) for mnist_small"),
        ("cnn3", {"shape": (8, 8, 1), "width": 0.0}, "width: expected a factor above 0; got 0.0"),
    ],
)
def test_what_no_network_can_be_made_of_is_named(name, given, message):
    with pytest.raises(ValueError, match=message):
        rt.models.build(name, seed=0, **given)


def test_a_run_of_a_narrow_one_is_trained_exported_and_certified(tmp_path):
    """With most pieces of recipes, on examples that are held out."""
    config, place, rows = trained(
        tmp_path / "run",
        method="cc_ibp",
        model="cnn7",
        width=0.05,
        batch_norm=True,
        eps=0.02,
        epochs=2,
        eps_warmup_epochs=1,
        limit_train=120,
        validation=60,
        share=0.5,
        attack_steps=1,
        attack_ratio=1.5,
        l1=1e-5,
        optimizer="radam",
        ema=0.5,
        lr_schedule="drops",
        lr_drops=[1],
        lr_factor=0.5,
        clip_norm=10.0,
        order_seed=4,
        augmentation_seed=5,
        shift=1,
    )
    assert config.lr_drops == (1,)
    assert [float(row["lr"]) for row in rows] == [config.lr, config.lr / 2]
    assert not any(row["test_interval_error"] for row in rows)
    model = rt.export.load(place.model("f"))
    assert model.get_layer("conv3").filters == 6
    _, held = rt.data.held_out(rt.data.load("digits", "train", 120), 60)
    found = rt.certify(model, *held, eps=0.02, method="interval")
    assert float(rows[-1]["validation_interval_error"]) == pytest.approx(1 - found.certified.mean())
    clean = float(np.mean(found.predicted != held.labels))
    assert float(rows[-1]["validation_clean_error"]) == pytest.approx(clean)


def test_held_out_examples_are_the_same_whatever_the_seed():
    given = rt.data.load("digits", "train", 50)
    numbered = rt.data.Dataset(given.images, np.arange(50, dtype=np.int32))
    train, held = rt.data.held_out(numbered, 20)
    assert sorted([*train.labels, *held.labels]) == list(range(50))
    assert len(held.labels) == 20
    np.testing.assert_array_equal(held.labels, rt.data.held_out(numbered, 20)[1].labels)
    np.testing.assert_array_equal(held.images, given.images[held.labels])
    np.testing.assert_array_equal(train.labels, np.sort(train.labels))
    assert not np.array_equal(np.sort(held.labels), np.arange(30, 50))
    for count in (0, 50):
        with pytest.raises(ValueError, match=r"count must be at least 1 and below the 50 examples"):
            rt.data.held_out(numbered, count)
    plan = rt.TrainingPlan.of(eps=0.1, epochs=1, method="ibp", validation=20)
    model = rt.models.build("digits_small", seed=0)
    with pytest.raises(ValueError, match="test must be None with validation 20"):
        rt.train(model, given, plan, test=given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"width": 0.0}, "--width: expected at least 0.01 and at most 8, got 0.0"),
        ({"model": "cnn9"}, "--model: expected one of digits_small"),
        ({"model_file": "net.keras", "width": 0.5}, "--width: expected none with --model_file"),
        ({"validation": 1437}, "--validation: expected at least 0 and at most 1436, got 1437"),
        ({"lr_drops": [3]}, "--lr_drops: expected none with --lr_schedule=cosine"),
        ({"lr_schedule": "drops"}, "--lr_drops: expected epochs, as in 120,140, with"),
        ({"lr_schedule": "drops", "lr_drops": [3, 3]}, "--lr_drops: expected rising epochs"),
        ({"lr_schedule": "drops", "lr_drops": [0]}, "--lr_drops: expected at least 1, got 0"),
        ({"ema": 1.0}, "--ema: expected at least 0 and at most 0.999999"),
        ({"attack_ratio": 0.0}, "--attack_ratio: expected above 0, got 0.0"),
        ({"l1": -1.0}, "--l1: expected at least 0, got -1.0"),
    ],
)
def test_bad_settings_are_named(given, message):
    with pytest.raises(ValueError) as error:
        configs.resolve({"method": "ibp"} | given)
    assert str(error.value).startswith(message)
