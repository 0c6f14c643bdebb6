"""What every test may ask for: the shared reference data, tolerances per dtype, a saved network.

What needs TensorFlow stands in `tests.tensorflow_state`: the process that only hands tests out to
others does without.
"""

import gc
import os
from pathlib import Path

import pytest

pytest_plugins = ("tests.covered",)


def pytest_configure(config):
    """TensorFlow is imported by whoever runs tests, before coverage begins there and slows it."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("tests.tensorflow_state")


@pytest.fixture(scope="module", autouse=True)
def _settled():
    """What lives now, modules and functions that earlier files had traced, goes on living.

    No collection of garbage looks at it again, which took more and more time from file to file.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of published weights, reference values and datasets; skips where it is absent.

    Looked for at the environment variable ROBUSTRA_SHARED, then at `shared` beside the project.
    """
    named = os.environ.get("ROBUSTRA_SHARED")
    beside = Path(__file__).resolve().parents[1].parent / "shared"
    folder = Path(named) if named else beside
    if not folder.is_dir():
        where = "ROBUSTRA_SHARED" if named else "`shared` beside the project (or ROBUSTRA_SHARED)"
        pytest.skip(f"the shared reference data are absent: {where} is not a folder")
    return folder


@pytest.fixture(scope="session")
def tolerances() -> dict[str, dict[str, float]]:
    """`np.testing.assert_allclose` keywords for arithmetic that rounds, per dtype name.

    A sum of a few hundred products loses about three digits of the type's precision.
    """
    return {
        "float32": {"rtol": 1e-4, "atol": 1e-5},
        "float64": {"rtol": 1e-10, "atol": 1e-11},
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A small network on the digits as training would leave it; not to be changed."""
    from tests.evaluations import digits_network, save

    return save(digits_network(), tmp_path_factory.mktemp("model") / "f")


@pytest.fixture(scope="session")
def nursery():
    """A process that has imported all and forks programs."""
    from tests.nursery import Nursery

    found = Nursery()
    yield found
    found.close()


@pytest.fixture(scope="module")
def without_pages():
    """Evaluations draw no pages, which take half a second each."""
    from eval import report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "build", lambda out, **options: out)
        yield


def pytest_collection_modifyitems(items):
    """Files that run long first: processes that share the files then end at about one time."""
    from tests import covered

    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, not covered.left_out(item)))


@pytest.fixture
def nothing_runs(tmp_path):
    """No payload of the test has run."""
    yield
    assert not (tmp_path / "ran").exists()
