"""A plugin: what a test begins with, a fixed seed, and functions of TensorFlow traced or not."""

import numpy as np
import pytest

from tests.quiet import context, keras, tf

SEED = 20190810


@pytest.fixture
def rng() -> np.random.Generator:
    """A NumPy generator with the fixed seed."""
    return np.random.default_rng(SEED)


@pytest.fixture(autouse=True)
def _seeded():
    """The same random numbers in every test, whichever tests run and in whatever order."""
    with pytest.MonkeyPatch.context() as patch:
        # TensorFlow's seed is set where it is another one: to set it empties the cache of kernels,
        # after which every function, traced or not, is optimised once more.
        if context.global_seed() == SEED:
            patch.setattr(tf.random, "set_seed", lambda seed: None)
        keras.utils.set_random_seed(SEED)


@pytest.fixture(scope="module")
def eager():
    """TensorFlow's functions run eagerly: to trace those of networks used once takes longest."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def eagerly(request):
    """As `eager`, test by test, but for those that are marked `traced`."""
    tf.config.run_functions_eagerly(not request.node.get_closest_marker("traced"))
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def unoptimised():
    """Graphs run as they were traced: to optimise those that take a few steps takes longest."""
    options = tf.config.optimizer
    options.set_experimental_options({"disable_meta_optimizer": True})
    yield
    options.set_experimental_options({"disable_meta_optimizer": False})
