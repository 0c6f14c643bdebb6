"""Shows how far a run has come: `robustra watch DIR`, or `python -m eval.watch DIR`.

A page on this machine's loopback address, which the browser asks for anew by itself: progress, what
each stage has decided, curves, the time that is left, the hardest images. It is of an evaluation,
a benchmark or a training run, or of those in the folders of one. Nothing is changed, nothing but
the page is given, and nobody is answered who comes from elsewhere. `--out=FILE` writes the page as
a file when all is finished, or when the watching is; `--once` writes it as things stand.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import http.server
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robustra_tf.cli import command
from robustra_tf.cli.program import Program
from robustra_tf.cli.settings import Range, SettingError
from robustra_tf.cli.stopping import Exit
from robustra_tf.data import Origin
from robustra_tf.storage import fingerprint
from robustra_tf.storage.files import write_atomically

from .proven import image_uri
from .report import environment
from .watched import Curve, Progress, Watched

PROGRAM = Program("eval.watch")
NAME = "watch.html"
_LOOPBACK = "127.0.0.1"
#: Seen well on light and dark, and by most who do not see all colours.
_COLORS = ("#3b82c4", "#d9730d", "#2a9d6f", "#b0559b", "#8a8f98", "#c9a227", "#7c6bd6", "#d1495b")
_NONE = np.zeros((0, 1, 1, 1), np.float32)
# What a page without scripts needs, and nothing else.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watch:
    """The command's settings."""

    folder: Path = command.setting(
        "folder of an evaluation, a benchmark or a training run, or of several", operands="DIR"
    )
    port: int = command.setting(
        "of the loopback address", 0, range=Range(0, 65535), otherwise="any that is free"
    )
    every: int = command.setting("seconds between two looks", 5, range=Range(1, 3600))
    out: Path | None = command.setting("file for the page at the end", None)
    once: bool = command.setting("only write --out, as things stand", False)
    data: Path | None = command.setting("where the images were read from, if by --data", None)
    data_dir: str | None = command.setting("TensorFlow Datasets' folder", None)

    def __post_init__(self):
        command.check(self)
        if not self.folder.is_dir():
            raise SettingError("DIR", "an existing folder", str(self.folder))
        if self.once and self.out is None:
            raise SettingError("out", "a file for the page with --once", None)
        if self.out is not None and not self.out.absolute().parent.is_dir():
            raise SettingError("out", "a file whose folder is there", str(self.out))


def main(arguments: Sequence[str] | None = None) -> int:
    """Watches; returns the process's exit code."""
    given = PROGRAM.read(Watch, __doc__, arguments)
    page = Page(given)
    try:
        if not given.once:
            _served(given, page)
        if given.out is not None:
            write_atomically(given.out, page.html(file=True))
            print(f"page in {given.out}")
    except OSError as error:
        PROGRAM.say(str(error))
        return Exit.FAILED
    return Exit.DONE


def _served(given: Watch, page: Page) -> None:
    """Gives the page to who asks, until Ctrl-C, or until all is finished where a file is wanted."""
    with server(page, given.port) as port:
        print(f"http://{_LOOPBACK}:{port}/ (Ctrl-C ends it)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while given.out is None or not page.finished():
                time.sleep(given.every)


@contextlib.contextmanager
def server(page: Page, port: int):
    """Answers on the loopback address while it is entered; gives its port."""
    made = http.server.ThreadingHTTPServer(
        (_LOOPBACK, port), functools.partial(_Handler, page.html)
    )
    made.daemon_threads = True
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    try:
        yield made.server_address[1]
    finally:
        made.shutdown()
        made.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers `GET /` by the page, and nothing else."""

    server_version, sys_version = "robustra", ""

    def __init__(self, html: Callable[[], str], *given: Any):
        self._html = html
        super().__init__(*given)

    def do_GET(self) -> None:
        """Gives the page."""
        # A page of another site may have its own name resolve to this address.
        host = self.headers.get("Host", "").rpartition(":")[0]
        if host not in (_LOOPBACK, "localhost"):
            self.send_error(403)
            return
        if self.path != "/":
            self.send_error(404)
            return
        content = self._html().encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing of who looks."""


class Page:
    """The page of a folder, made anew each time."""

    def __init__(self, given: Watch):
        """Reads nothing yet."""
        self._given, self._watched = given, Watched(given.folder)
        self._images: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    def finished(self) -> bool:
        """Whether there is something, and nothing more comes."""
        with self._lock:
            parts = self._watched.look()
        return bool(parts) and all(part.finished for part in parts)

    def html(self, file: bool = False) -> str:
        """The page; as a file it does not ask to be looked at again."""
        with self._lock:
            parts = [self._shown(part) for part in self._watched.look()]
        over = bool(parts) and all(part["finished"] for part in parts)
        content = {
            "folder": self._given.folder.resolve().name,
            "date": datetime.datetime.now().isoformat(" ", timespec="seconds"),
            "every": 0 if file or over else self._given.every,
            "colors": _COLORS,
            "parts": parts,
        }
        return environment().get_template(NAME).render(content)

    def _shown(self, part: Progress) -> dict[str, Any]:
        images = self._loaded(part.identity) if part.hardest else _NONE
        hardest = []
        for row in part.hardest:
            place = row["index"] - part.identity.get("first", 0)
            there = 0 <= place < len(images)
            hardest.append({**row, "uri": image_uri(images[place]) if there else ""})
        return vars(part) | {"hardest": hardest, "drawing": drawing(part.curves)}

    def _loaded(self, identity: Mapping[str, Any]) -> np.ndarray:
        """The images of an evaluation; none where they are not there or are others."""
        digest = identity.get("data_sha256")
        if not isinstance(digest, str):
            return _NONE
        if digest not in self._images:
            self._images[digest] = _NONE
            with contextlib.suppress(Exception):  # the page is about something else
                images, labels = _read(identity, self._given)
                if fingerprint.arrays_sha256([images, labels]) == digest:
                    self._images[digest] = images
        return self._images[digest]


def _read(identity: Mapping[str, Any], given: Watch) -> tuple[Any, Any]:
    origin = Origin(identity["dataset"], given.data_dir, given.data, identity.get("scale"))
    first, limit = identity["first"], identity["limit"]
    images, labels = origin.load(identity["split"], None if limit is None else first + limit)
    return images[first:], labels[first:]


def drawing(curves: Sequence[Curve]) -> dict[str, Any] | None:
    """Curves in the template's coordinates: x from the least to the greatest, y from 0.

    Args:
      curves: lines of points whose y is at least 0.
    """
    points = [point for curve in curves for point in curve.points]
    if not points:
        return None
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    top = max(max(y for _, y in points), 1e-9)
    width = (right - left) or 1.0
    lines = [
        {
            "name": curve.name,
            "points": " ".join(
                f"{50 + 580 * (x - left) / width:.1f},{220 - 210 * y / top:.1f}"
                for x, y in curve.points
            ),
        }
        for curve in curves
    ]
    ends = {"top": top, "middle": top / 2, "left": left, "right": right}
    return {name: f"{value:.3g}" for name, value in ends.items()} | {"lines": lines}


if __name__ == "__main__":
    sys.exit(main())
