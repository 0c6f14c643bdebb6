"""A plugin of pytest: how long each test that passed took, and coverage of all of them."""

import collections
import json
import os

_seconds = collections.Counter()
_failed = set()


def pytest_collection_modifyitems(items):
    """What is not measured to save time is measured here: it may be what catches a mutant."""
    for item in items:
        for node in item.listchain():
            node.own_markers = [mark for mark in node.own_markers if mark.name != "no_cover"]


def pytest_runtest_logreport(report):
    """Adds up; tests that fail without any change cannot judge one."""
    _seconds[report.nodeid] += report.duration
    if not report.passed:
        _failed.add(report.nodeid)


def pytest_sessionfinish(session):
    """Written by the process that hears of all tests."""
    if not hasattr(session.config, "workerinput"):
        kept = {name: value for name, value in _seconds.items() if name not in _failed}
        with open(os.environ["MUTATION_SECONDS"], "w") as file:
            json.dump(kept, file)
