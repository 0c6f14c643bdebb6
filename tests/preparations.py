"""What a process of `nursery` is given before its program begins: faults, delays, less to do."""

import os


def uncertified() -> None:
    """No signature of an exported network that takes long to trace."""
    import functools

    from robustra_tf import export

    export.save = functools.partial(export.save, certifies=False)


def tiny() -> None:
    """One small layer instead of three convolutions, and exports that are not certified."""
    import keras
    import tensorflow as tf

    from robustra_tf import models

    # A third of such a life goes to it, and one life is compared with another alone.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

    def build(name, seed, init, batch_norm, **asked):
        draw = [keras.initializers.GlorotNormal(seed=seed + k) for k in range(2)]
        layers = [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(12, kernel_initializer=draw[0]),
            *([keras.layers.BatchNormalization(momentum=0.9)] if batch_norm else []),
            keras.layers.ReLU(),
            keras.layers.Dense(10, kernel_initializer=draw[1]),
        ]
        return keras.Sequential(layers)

    models.build = build
    uncertified()


def poisoned() -> None:
    """Example 41 has a pixel that is no number."""
    import numpy as np

    from robustra_tf import data

    tiny()
    load = data.Origin.load

    def damaged(*args):
        images, labels = load(*args)
        images = images.copy()
        images[41, 3, 3] = np.nan
        return data.Dataset(images, labels)

    data.Origin.load = damaged


def fatal() -> None:
    """Dies when the fourth pass has been recorded but its checkpoint not yet written."""
    import signal

    from robustra_tf.training.checkpoint import Checkpoints

    save = Checkpoints.save

    def dying(self, position, notes):
        if position.passes == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return save(self, position, notes)

    Checkpoints.save = dying


def slow() -> None:
    """Every step takes a second longer, and says that it is done."""
    import time

    from robustra_tf.training.step import TrainStep

    tiny()
    step = TrainStep.__call__

    def delayed(self, *args):
        time.sleep(1)
        metrics = step(self, *args)
        print("stepped", flush=True)
        return metrics

    TrainStep.__call__ = delayed


def slow_evaluation() -> None:
    """Test images are looked at forty together, for a second each time."""
    import time

    from robustra_tf.training import testing

    tiny()
    testing._TESTED_TOGETHER = 40
    certify = testing.certify

    def delayed(*args, **kwargs):
        print("evaluating", flush=True)
        time.sleep(1)
        return certify(*args, **kwargs)

    testing.certify = delayed


def stuck() -> None:
    """The second step computes for ever, without ever coming back to Python."""
    _endless_after(1)


def stuck_at_once() -> None:
    """The first step does, as if it took long to compile."""
    _endless_after(0)


def _endless_after(steps: int) -> None:
    import tensorflow as tf

    from robustra_tf.training.step import TrainStep

    tiny()

    @tf.function(autograph=False)
    def endless():
        return tf.while_loop(lambda x: x < 1.0, lambda x: (x * 0.5,), (tf.constant(0.5),))

    step, taken = TrainStep.__call__, []

    def endless_at_last(self, *args):
        if len(taken) == steps:
            print("endless", flush=True)
            endless()
        taken.append(self)
        return step(self, *args)

    TrainStep.__call__ = endless_at_last


def slow_bounds() -> None:
    """Every batch of a bound takes a second longer."""
    import time

    from eval.stages import Bound

    decide = Bound._decide

    def delayed(self, batch):
        time.sleep(1)
        return decide(self, batch)

    Bound._decide = delayed


def endless_bound() -> None:
    """A batch of a bound computes for ever, without ever coming back to Python."""
    import tensorflow as tf

    from eval.stages import Bound

    @tf.function(autograph=False)
    def endless():
        return tf.while_loop(lambda x: x < 1.0, lambda x: (x * 0.5,), (tf.constant(0.5),))

    def decide(self, batch):
        print("endless", flush=True)
        endless()

    Bound._decide = decide


def plain() -> None:
    """Nothing is changed."""
