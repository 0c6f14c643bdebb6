"""Signals that ask a program to stop."""

import os
import signal
import threading
import time

import pytest

from robustra_tf.cli.stopping import NEVER, SIGNALS, Exit, Stop, Stopped


def _soon(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_and_says_so(number):
    before, said = [signal.getsignal(n) for n in SIGNALS], []
    threads = threading.active_count()
    with Stop(said.append) as stop:
        assert not stop.requested
        stop.check()
        os.kill(os.getpid(), number)
        _soon(lambda: stop.requested and said)
        with pytest.raises(Stopped):
            stop.check()
    (line,) = said
    assert line.startswith(f"{number.name}: stopping")
    assert "a second one stops at once" in line
    # Afterwards everything is as it was.
    assert [signal.getsignal(n) for n in SIGNALS] == before
    assert threading.active_count() == threads
    assert signal.set_wakeup_fd(-1) == -1


def _ended(act):
    """The exit code of a process that does `act` with a `Stop`, and what the stop said."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with Stop(lambda line: os.write(writer, f"{line}\n".encode())) as stop:
                act(stop)
                time.sleep(30)
        finally:
            os._exit(99)
    os.close(writer)
    _, status = os.waitpid(pid, 0)
    with open(reader) as file:
        return os.waitstatus_to_exitcode(status), file.read()


@pytest.mark.parametrize("number", SIGNALS)
def test_with_nothing_to_lose_the_first_signal_ends_the_process(number):
    def act(stop):
        stop.nothing_to_lose("no step was taken")
        os.kill(os.getpid(), number)

    assert _ended(act) == (Exit.STOPPED, f"{number.name}: stopped; no step was taken\n")


@pytest.mark.parametrize("number", SIGNALS)
def test_the_second_signal_says_what_was_kept(number):
    def act(stop):
        stop.nothing_to_lose("no step was taken")
        stop.nothing_to_lose(None)
        stop.keeps("a checkpoint")
        os.kill(os.getpid(), number)
        while not stop.requested:
            time.sleep(0.001)
        os.kill(os.getpid(), number)

    code, said = _ended(act)
    assert code == 128 + number
    assert said.splitlines()[1] == f"{number.name}: stopped at once; a checkpoint"


def test_other_signals_are_not_a_wish_to_stop():
    caught = []
    old = signal.signal(signal.SIGUSR1, lambda *_: caught.append(1))
    try:
        with Stop(lambda line: None) as stop:
            os.kill(os.getpid(), signal.SIGUSR1)
            _soon(lambda: caught)
            time.sleep(0.05)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGUSR1, old)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_ends_the_process_with_its_number(number):
    pid = os.fork()
    if pid == 0:
        try:
            with Stop(lambda line: None) as stop:
                os.kill(os.getpid(), number)
                while not stop.requested:
                    time.sleep(0.001)
                os.kill(os.getpid(), number)
                time.sleep(30)
        finally:
            os._exit(99)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + number


def test_what_is_never_asked_never_stops():
    NEVER.check()
    assert not NEVER.requested


def test_exit_codes_differ_from_each_other_and_from_those_of_signals():
    assert len(set(Exit)) == len(Exit.__members__)
    assert max(Exit) < 128
