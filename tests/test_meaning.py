"""What files say of a network is compared with it: by values, of code of their own."""

import keras
import pytest

from robustra_tf import graph
from robustra_tf.evidence import meaning, network
from robustra_tf.evidence.network import Described
from tests import nets

pytestmark = pytest.mark.usefixtures("eager")


def moved():
    """A network whose operations have every field that may be left out of others."""
    layers = keras.layers
    return nets.randomise(
        keras.Sequential(
            [
                keras.Input((6, 7, 4)),
                layers.ZeroPadding2D(((1, 0), (0, 2))),
                layers.Conv2D(6, 2, dilation_rate=2, activation="relu"),
                layers.Conv2D(4, 3, strides=(2, 1), padding="same", groups=2, activation="relu"),
                layers.DepthwiseConv2D(2, depth_multiplier=2, activation="relu"),
                layers.AveragePooling2D((1, 2), padding="valid"),
                layers.MaxPooling2D(2, padding="same"),
                layers.Permute((2, 1, 3)),
                layers.Normalization(),
                layers.Flatten(),
                layers.Dense(3),
            ]
        ),
        seed=3,
    )


@pytest.fixture(scope="module")
def graphs(eager):
    """Graphs of every kind of operation."""
    made = [make() for make in nets.ALL.values()]
    return [graph.build(model) for model in [*made, moved()]]


def test_every_operation_is_described_as_it_is(graphs):
    operations = set()
    for each in graphs:
        described = Described.of(each)
        operations |= {text["op"] for text in described.operations}
        assert described.sha256 == network.network_sha256(each)
    assert operations >= set(meaning._MEANINGS) - {"standardise", "pad"}


FIELDS = {
    "strides": [1, 1],
    "padding": [[1, 2], [0, 0]],
    "dilation": [1, 1],
    "plus": None,
    "order": None,
    "indices": None,
    "epsilon": 2.0,
    "scale": 3.0,
}


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_that_is_wrong_is_named(graphs, field, monkeypatch):
    """Of whichever operations have it; one that changes nothing is another way to say the same."""
    refused = 0
    for each in graphs:
        plain = network.describe(each)
        for index, text in enumerate(plain):
            if field not in text:
                continue
            other = FIELDS[field]
            if field in ("plus", "indices"):
                other = [place - 1 if place > 0 else place + 1 for place in text[field]]
            if field == "order":
                other = text[field][::-1]
            forged = [*plain[:index], text | {field: other}, *plain[index + 1 :]]
            if forged == plain:
                continue
            monkeypatch.setattr(network, "describe", lambda _, forged=forged: forged)
            with pytest.raises(ValueError, match="a fault of what writes it"):
                Described.of(each)
            refused += 1
    assert refused
