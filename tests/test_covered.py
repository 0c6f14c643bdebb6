"""What the measurement of covered lines leaves out is run without it; this file is left out."""

import os
import sys
from pathlib import Path

from tests import covered


def test_files_that_are_left_out_are_there():
    found = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert found >= covered.UNMEASURED


def test_nothing_measures_here_or_in_programs_that_are_started(request):
    if request.config.getoption("cov_context", None):
        return  # all files are measured then
    assert sys.gettrace() is None
    assert "COVERAGE_PROCESS_CONFIG" not in os.environ
