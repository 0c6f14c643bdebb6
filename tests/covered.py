"""What `pytest --cov` prints at its end: the share of covered lines of each package.

pytest-cov measures, here and in the programs that tests start, and has put the parts together by
the time the session finishes; this plugin reads the result. A package below `fail_under` of
`pyproject.toml` fails the session, as a test would.

To measure costs a third of the time of whatever runs. The files that run longest are left out: what
they run, others run too, so that the share that is printed is one of a part of the tests. So are
those that only read files.
"""

import contextlib
import io
import os

import coverage
import pytest

PACKAGES = ("robustra_tf", "train", "eval")
#: Files of tests, without `test_`, that are not measured.
UNMEASURED = {
    "architectures",
    "bounds_numpy",
    "bounds_oracle",
    "bounds_runs",
    "certified_model",
    "covered",
    "docstring_names",
    "docstrings",
    "eval_run",
    "eval_sweep",
    "exact_batched",
    "exact_encoding",
    "exact_faults",
    "exact_multipliers",
    "exact_refining",
    "exact_residual",
    "exact_splitting",
    "exact_verify",
    "fit_data",
    "fit_habits",
    "fuzz",
    "guards",
    "intake",
    "layers",
    "methods",
    "mutation",
    "nearest",
    "normalisation",
    "objective",
    "objective_norms",
    "objective_projection",
    "oracles",
    "ordering",
    "package",
    "pair_bounds",
    "pair_verdicts",
    "public_benchmarks",
    "pure_step",
    "regularisers",
    "shared_batches",
    "sound",
    "soundness",
    "step",
    "threshold",
    "train_intervals",
    "train_projection",
    "training",
    "tutorial",
    "verdicts",
}
_FOUND = pytest.StashKey[list[str]]()


def percentages(measured: coverage.Coverage) -> dict[str, float]:
    """Percent of the lines of each package that were run."""
    found = dict.fromkeys(PACKAGES, 0.0)
    for name in PACKAGES:
        # A few tests alone may not even import one of them.
        with contextlib.suppress(coverage.exceptions.NoDataError):
            found[name] = measured.report(
                include=f"*/{name}/*", file=io.StringIO(), skip_empty=True
            )
    return found


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """One measurement in a worker, that of pytest-cov, which begins later and may pause.

    Whatever has begun before would go on in its pauses: coverage's own, as in any program that a
    test starts, and another one of pytest-cov, which has taken the worker for the controller.
    """
    if hasattr(config, "workerinput"):
        while begun := coverage.Coverage.current():
            begun.stop()


def left_out(item):
    """Whether a test's file is one that is not measured."""
    return item.path.stem.removeprefix("test_") in UNMEASURED


@contextlib.contextmanager
def _unmeasured(controller):
    """Nothing is measured, here or in programs that are started."""
    programs = os.environ.pop("COVERAGE_PROCESS_CONFIG", None)
    controller.pause()
    try:
        yield
    finally:
        controller.resume()
        if programs is not None:
            os.environ["COVERAGE_PROCESS_CONFIG"] = programs


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    plugin = item.config.pluginmanager.getplugin("_cov")
    controller = plugin and plugin.cov_controller
    # Whoever asks which test runs a line asks it of all.
    whole = not controller or item.config.option.cov_context
    if whole or not left_out(item):
        return (yield)
    with _unmeasured(controller):
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    config = session.config
    if not getattr(config.option, "cov_source", None) or hasattr(config, "workerinput"):
        return
    measured = coverage.Coverage()
    measured.load()
    least = measured.get_option("report:fail_under")
    found = percentages(measured)
    lines = [f"{name}: {percent:.1f}% of lines" for name, percent in found.items()]
    if few := [name for name, percent in found.items() if percent < least]:
        lines.append(f"FAILED: fewer than {least:g}% of the lines of {', '.join(few)}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    config.stash[_FOUND] = lines


def pytest_terminal_summary(terminalreporter, config):
    if lines := config.stash.get(_FOUND, None):
        terminalreporter.section("coverage")
        for line in lines:
            terminalreporter.line(line)
