"""Bars on a terminal of 80 columns, and on none."""

import fcntl
import io
import os
import select
import struct
import termios

import pytest

from robustra_tf.cli.program import Program
from robustra_tf.cli.progress import COMPILING, RATE, Bar, follow

WIDTH = 80


@pytest.fixture
def terminal(monkeypatch):
    """Two functions: one puts a terminal in place of the error stream, one reads what it got."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, WIDTH, 0, 0))
    stream = os.fdopen(theirs, "w")
    # Every change is shown.
    monkeypatch.setattr("robustra_tf.cli.progress.seconds_between", lambda: 0)

    def attach():  # In the test itself: pytest puts its own stream there before.
        monkeypatch.setattr("sys.stderr", stream)

    def read():
        stream.flush()
        found = b""
        while select.select([ours], [], [], 0.1)[0]:
            found += os.read(ours, 1 << 16)
        return found.decode().replace("\x1b[A", "").split("\r")

    yield attach, read
    stream.close()
    os.close(ours)


@pytest.mark.parametrize("label", ["epoch 100/100 f", "lp", "eps 0.0313725, lp"])
def test_a_bar_shows_the_figures_that_fit_and_none_in_part(terminal, label):
    attach, read = terminal
    attach()
    bar = Bar(label, 60_000, compiling=True)
    (first,) = filter(str.strip, read())
    assert first.startswith(f"{label}:   0%")
    assert COMPILING in first
    figures = ["robust_error=0.4875", "loss=1.2345", "clean_error=0.1234", "eps=0.1", "lr=0.001"]
    for _ in range(3):
        bar.advance(20_000)
        bar.show([*figures, RATE], refresh=True)
    frames = [frame.strip("\n") for frame in read() if frame.strip()]
    assert all(len(frame) <= WIDTH for frame in frames)
    assert not any(COMPILING in frame for frame in frames)
    last = frames[-1]
    assert "60000/60000 [00:00 left, robust_error=0.4875" in last
    assert last.endswith("]")
    for part in last.partition(" left, ")[2].removesuffix("]").split(", "):
        assert part in figures
    bar.close()


def test_what_is_left_is_counted_from_the_batch_after_the_first(terminal, monkeypatch):
    """The first takes 100 s, the others one second each: 2 of them are left at the end."""
    attach, read = terminal
    attach()
    now = [0.0]
    bar = Bar("lp", 6, compiling=True)
    monkeypatch.setattr(bar._bar, "_time", lambda: now[0])
    bar._bar.start_t = bar._bar.last_print_t = 0.0
    for _ in range(4):
        now[0] += 100 if now[0] == 0 else 1
        bar.advance(1)
        bar.show([RATE], refresh=True)
    last = [frame for frame in read() if frame.strip()][-1]
    assert "4/6 [00:02 left,  1.00 examples/s]" in last
    bar.close()


def test_batches_are_followed_to_the_last_one_and_to_an_error(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    assert list(follow("abc", "certify", 5, 2)) == ["a", "b", "c"]
    assert "5/5" in stream.getvalue().splitlines()[-1]
    assert "certify:   0%" in stream.getvalue()
    following = follow("abc", "certify", 5, 2)
    next(following)
    with pytest.raises(KeyError):
        following.throw(KeyError)


def test_a_file_has_all_figures(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    bar = Bar("lp", 10)
    bar.advance(10)
    bar.show([f"figure_{k}=0.123456789" for k in range(9)], refresh=True)
    bar.close()
    assert "figure_8=0.123456789" in stream.getvalue().splitlines()[-1]


def test_a_line_said_beside_a_bar_stands_alone(terminal, monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr("sys.stderr", file)
    Program("train.main").say("before")
    bar = Bar("lp", 10, compiling=True)
    Program("train.main").say("stopping")
    bar.close()
    lines = file.getvalue().splitlines()
    assert lines[0] == "train.main: before"
    assert "train.main: stopping" in lines
    attach, read = terminal
    attach()
    Program("train.main").say("here")
    assert any(line.startswith("\x1b[Ktrain.main: here") for line in read())
