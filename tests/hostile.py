"""What tests of files from anywhere share: a payload, and how a refusal reads.

Every malformed file is written by its test, byte by byte where a library would not write it. A
payload that ran would leave a file behind.
"""

import os

import pytest

HUGE = 2**40


class Payload:
    """Unpickled, it would create the file `ran`."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder / "ran"),)


def refused(read, path, *words):
    """`read()` raises one `ValueError` that names the file and all of `words`; its text."""
    with pytest.raises(ValueError) as raised:
        read()
    text = str(raised.value)
    for word in (str(path), *words):
        assert word in text, text
    return text
