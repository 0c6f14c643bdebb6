"""Files that are found whole or not at all, and folders that one process works in at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

LOCK_NAME = "lock"
# Locks of this process: (device, inode) of a file to its descriptor.
_held: dict[tuple[int, int], int] = {}


class InUseError(OSError):
    """A folder that another process is working in; the text names both."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces a file's content: whoever reads it finds the old or the new, never a part.

    That holds after a crash of the machine too: the new content is on disk before it takes the
    name.

    Raises:
      OSError: nothing could be written, as on a full disk; the old content stays.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Waits until a file's content, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hold(directory: Path) -> None:
    """Keeps other processes out of a folder until this one ends, however it ends.

    The lock is the operating system's, on the file `lock` there, which stays and holds the
    process's number. It binds those who ask for it, and lets this process, and those that it forks,
    in again.

    Args:
      directory: an existing folder.

    Raises:
      InUseError: another process holds it.
      OSError: the folder cannot be written.
    """
    descriptor = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        about = os.fstat(descriptor)
        if (about.st_dev, about.st_ino) in _held:
            os.close(descriptor)
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            raise InUseError(f"{directory}: process {owner} is working there") from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except OSError:
        os.close(descriptor)
        raise
    # Never closed, which would give the lock back.
    _held[about.st_dev, about.st_ino] = descriptor
