"""What networks of pooled maxima and branches reach: `python -m benchmarks.layers`.

One model of convolutions, batch normalisation, maximum pooling, concatenated branches and a global
mean, read from a `.keras` file, is trained on the embedded digits by `rt.train` and by Keras's
`fit`; counted are the test images that are certified at the radius. Then, on random networks of a
convolution, a ReLU and maximum pooling: CROWN's margins with maxima in pairs beside those with the
usual relaxation of a window (below, the input with the greatest lower bound; above, the greatest
upper bound, or the input itself where it dominates).
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import harness
from robustra_tf.cli import command
from robustra_tf.cli.settings import Range


@dataclasses.dataclass(frozen=True)
class Config:
    """How much is trained and compared."""

    eps: float = command.setting("radius in pixels", 0.05, range=Range(0.0))
    epochs: int = command.setting("of each training", 20, range=Range(1))
    networks: int = command.setting("random networks, of each pooling", 20, range=Range(1))

    def __post_init__(self):
        command.check(self)


def network():
    """Maximum pooling, two branches side by side, batch normalisation, a global mean."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.MaxPooling2D(2)(x)
    wide = layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    x = layers.Concatenate()([wide, layers.Conv2D(8, 1, activation="relu")(x)])
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(32, 3, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(10)(x))


def trained(config: Config) -> dict[str, Any]:
    """Shares of the test images that are right, and that are certified, by either way to train."""
    import keras

    import robustra_tf as rt

    train, test = (rt.data.load("digits", split) for split in ("train", "test"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.keras"
        network().save(path)
        by_train, by_fit = keras.saving.load_model(path), keras.saving.load_model(path)
    warmup = max(1, 3 * config.epochs // 4)
    plan = rt.TrainingPlan(
        eps=config.eps,
        epochs=config.epochs,
        method="ibp",
        lr=2e-3,
        ramp="step",
        eps_warmup_epochs=warmup,
    )
    rt.train(by_train, train, plan)
    certified = rt.CertifiedModel(by_fit, method="ibp", eps=config.eps)
    certified.compile(keras.optimizers.Adam(5e-3))
    warm = rt.EpsilonSchedule(warmup_epochs=max(1, config.epochs // 3))
    certified.fit(*train, batch_size=50, epochs=config.epochs, callbacks=[warm], verbose=0)
    found = {}
    for name, model in (("rt.train", by_train), ("fit", by_fit)):
        certificate = rt.certify(model, *test, config.eps, method="interval")
        right = certificate.predicted == test.labels
        found[name] = {"right": right.mean(), "certified": certificate.certified.mean()}
    return found


class Linear(NamedTuple):
    """A first convolution on a ball: `matrix x + offset` for `|x - centre| <= radius`.

    Attributes:
      matrix: [h, w, channels, pixels].
      offset: [h, w, channels].
      centre, radius: [pixels].
    """

    matrix: np.ndarray
    offset: np.ndarray
    centre: np.ndarray
    radius: np.ndarray

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper, [h, w, channels]."""
        middle = self.matrix @ self.centre + self.offset
        reach = np.abs(self.matrix) @ self.radius
        return middle - reach, middle + reach


def compared(size: int, strides: int, seed: int, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """CROWN's lower bounds of the margins of one random network: in pairs, and the usual way."""
    import keras
    from keras import layers

    import robustra_tf as rt

    keras.utils.set_random_seed(seed)
    x = np.random.default_rng(seed).uniform(size=(1, 8, 8, 1)).astype(np.float32)
    inputs = keras.Input((8, 8, 1))
    hidden = layers.Conv2D(6, 3, activation="relu")(inputs)
    pooled = layers.MaxPooling2D(size, strides)(hidden)
    model = keras.Model(inputs, layers.Dense(4)(layers.Flatten()(pooled)))
    y = int(np.argmax(model(x)))
    others = [t for t in range(4) if t != y]
    pairs = rt.certify(model, x, [y], eps, method="crown", dtype="float64").margin_lower[0]
    kernel, bias = (w.numpy().astype(np.float64) for w in model.layers[-1].weights)
    rows = (kernel[:, [y]] - kernel[:, others]).T.reshape(len(others), *pooled.shape[1:])
    usual = _usual(_first(model, x, eps), rows, bias[y] - bias[others], (size, strides))
    return pairs[others], usual


def _first(model: Any, x: np.ndarray, eps: float) -> Linear:
    """The convolution that a model begins with, about an image in [0, 1]."""
    import tensorflow as tf

    from robustra_tf.graph import build

    graph = build(model)
    node, weights = graph.structure.nodes[1], graph.weights(tf.float64)
    own = [weights[i] for i in node.weights]
    offset = node.op.forward(tf.zeros((1, *node.op.in_shape), tf.float64), *own).numpy()[0]
    matrix = node.op.as_matrix(*own).numpy().reshape(*offset.shape, -1)
    flat = x.reshape(-1).astype(np.float64)
    low, high = np.maximum(flat - eps, 0), np.minimum(flat + eps, 1)
    return Linear(matrix, offset, 0.5 * (low + high), 0.5 * (high - low))


def _usual(
    first: Linear, rows: np.ndarray, total: np.ndarray, window: tuple[int, int]
) -> np.ndarray:
    """Lower bounds of `rows . pooled + total`, by CROWN with one relaxation for a whole window."""
    lower, upper = first.bounds
    behind, constant = _before_pooling(rows, np.maximum(lower, 0), np.maximum(upper, 0), window)
    crossing = (lower < 0) & (upper > 0)
    slope = np.where(crossing, upper / np.where(crossing, upper - lower, 1), lower >= 0)
    least = np.where(crossing, upper > -lower, slope)
    before = np.maximum(behind, 0) * least + np.minimum(behind, 0) * slope
    chord = np.where(crossing, -slope * lower, 0)
    total = total + constant + (np.minimum(behind, 0) * chord).sum((1, 2, 3))
    onto = np.tensordot(before, first.matrix, 3)
    total = total + (before * first.offset).sum((1, 2, 3))
    return total + onto @ first.centre - np.abs(onto) @ first.radius


def _before_pooling(
    rows: np.ndarray, low: np.ndarray, high: np.ndarray, window: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Rows on what is pooled, between `low` and `high`, and what the upper constants add."""
    size, strides = window
    behind, constant = np.zeros((len(rows), *low.shape)), np.zeros(len(rows))
    for i, j, c in np.ndindex(rows.shape[1:]):
        top, left = i * strides, j * strides
        place = np.s_[top : top + size, left : left + size, c]
        lows, highs = low[place].ravel(), high[place].ravel()
        best = int(lows.argmax())
        at = (slice(None), top + best // size, left + best % size, c)
        if lows[best] >= np.delete(highs, best).max():
            behind[at] += rows[:, i, j, c]
        else:
            behind[at] += np.maximum(rows[:, i, j, c], 0)
            constant += np.minimum(rows[:, i, j, c], 0) * highs.max()
    return behind, constant


def maxima(config: Config) -> dict[str, Any]:
    """For windows and radii: where pairs are the tighter ones, and by how much either way."""
    found = {}
    for size, strides in ((2, 2), (3, 2)):
        for eps in (0.02, 0.1):
            both = [compared(size, strides, seed, eps) for seed in range(config.networks)]
            pairs, usual = (np.concatenate(column) for column in zip(*both, strict=True))
            found[f"window {size}, stride {strides}, eps {eps:g}"] = {
                "margins": len(pairs),
                "pairs_tighter": int((pairs > usual + 1e-9).sum()),
                "usual_tighter": int((usual > pairs + 1e-9).sum()),
                "mean_pairs": pairs.mean(),
                "mean_usual": usual.mean(),
            }
    return found


def main(config: Config) -> None:
    """Train, compare and print."""
    harness.show({**dataclasses.asdict(config), "trained": trained(config), **maxima(config)})


if __name__ == "__main__":
    main(command.read(Config, "benchmarks.layers", __doc__))
