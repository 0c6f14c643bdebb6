"""Files that are found whole or not at all, and folders that are one process's."""

import os
import subprocess
import sys

import pytest

from robustra_tf.storage import files

HOLD = (
    "import sys; from pathlib import Path; from robustra_tf.storage.files import hold;"
    "hold(Path('.'));"
)


def test_a_file_is_replaced(tmp_path):
    path = tmp_path / "file"
    for content in ("één", b"\x00two", ""):
        files.write_atomically(path, content)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_full_disk_leaves_the_old_content_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    files.write_atomically(path, "old")
    (tmp_path / "file.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        files.write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    path, order = tmp_path / "file", []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda f: (order.append("sync"), fsync(f)))
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("rename"), replace(a, b)))
    files.write_atomically(path, "new")
    assert order == ["sync", "rename", "sync"]


def _python(code, cwd):
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def test_a_folder_is_one_processs_until_it_ends(tmp_path):
    wait = "print('held', flush=True); sys.stdin.read()"
    owner = _python(HOLD + wait, tmp_path)
    assert owner.stdout.readline() == "held\n"
    with pytest.raises(files.InUseError) as raised:
        files.hold(tmp_path)
    assert str(raised.value) == f"{tmp_path}: process {owner.pid} is working there"
    owner.kill()
    owner.communicate()
    files.hold(tmp_path)
    files.hold(tmp_path)  # again: it is the same process's
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    late = _python(HOLD, tmp_path)
    late.communicate()
    assert late.returncode == 1


def test_a_folder_that_is_not_there_cannot_be_held(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.hold(tmp_path / "none")
