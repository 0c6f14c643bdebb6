"""What `pytest --cov` prints at its end: the share of covered lines of each package.

pytest-cov measures, here and in the programs that tests start, and has put the parts together by
the time the session finishes; this plugin reads the result. A package below `fail_under` of
`pyproject.toml` fails the session, as a test would.
"""

import contextlib
import io

import coverage
import pytest

PACKAGES = ("robustra_tf", "train", "eval")
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
