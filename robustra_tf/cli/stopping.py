"""How a program ends: its exit codes, and a first signal that asks and a second one that stops."""

from __future__ import annotations

import enum
import os
import signal
import threading
from collections.abc import Callable
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: What a shell reports of a process that a signal ended: this plus the signal's number.
_ENDED_BY = 128


class Exit(enum.IntEnum):
    """What a program's exit code says."""

    DONE = 0
    FAILED = 1  # broke off: a full disk, a worker that died
    BAD_USAGE = 2  # cannot be run as it stands; nothing was begun
    STOPPED = 3  # by SIGINT or SIGTERM; all that was done is saved and can be gone on with
    NOT_FINITE = 4  # training met a loss, a gradient or a weight that is no finite number
    CONTRADICTED = 5  # done, and a verdict is the opposite of an agreed one


class Stopped(Exception):  # noqa: N818 - it is no error
    """Raised where stopping loses nothing, after a signal asked for it."""


class Stop:
    """While entered, SIGINT and SIGTERM ask the program to stop instead of ending it.

    The first one sets `requested`, which the program looks at where it can stop; as long as
    `nothing_to_lose` holds it ends the process with `Exit.STOPPED` instead. A second one ends the
    process at once, in the middle of whatever it does, with 128 plus the signal's number.

    To be entered by the main thread.
    """

    def __init__(self, tell: Callable[[str], None]):
        """Prepares; `tell` is called with a line for the user at the first signal."""
        self._tell = tell
        self._idle: str | None = None
        self._kept = "nothing was saved"
        #: Whether a signal has come.
        self.requested = False

    def __enter__(self) -> Self:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        # Python runs its handlers between two of its own instructions, which a long computation
        # puts off. The byte that it writes at once is read by a thread.
        self._handlers = {number: signal.signal(number, _nothing) for number in SIGNALS}
        self._wakeup = signal.set_wakeup_fd(self._writer)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self._writer)  # which ends the thread
        self._thread.join()
        os.close(self._reader)

    def nothing_to_lose(self, why: str | None) -> None:
        """Lets a signal end the process wherever it is, telling `why`; None: no longer."""
        self._idle = why

    def keeps(self, what: str) -> None:
        """Says what remains where a second signal ends the process; it is told that."""
        self._kept = what

    def check(self) -> None:
        """Raises `Stopped` if a signal has come."""
        if self.requested:
            raise Stopped

    def _listen(self) -> None:
        while received := os.read(self._reader, 1):
            if received[0] not in SIGNALS:
                continue
            name = signal.Signals(received[0]).name
            if self.requested:
                self._tell(f"{name}: stopped at once; {self._kept}")
                os._exit(_ENDED_BY + received[0])
            self.requested = True
            if (idle := self._idle) is not None:
                self._tell(f"{name}: stopped; {idle}")
                os._exit(Exit.STOPPED)
            self._tell(f"{name}: stopping as soon as nothing is lost; a second one stops at once")


#: One that is never asked to.
NEVER = Stop(lambda line: None)


def _nothing(number, frame) -> None:
    """A handler: the default ones would end the process or raise."""
