"""Keras on another backend is refused in one line, whether that backend is installed or not."""

import os
import subprocess
import sys

import pytest

PROGRAMS = [
    ("train.main", ("--workdir={}",)),
    (
        "eval.main",
        ("--weights={}.mat", "--model=digits_small", "--dataset=digits", "--eps=0.1", "--out={}"),
    ),
]


@pytest.mark.parametrize(("program", "flags"), PROGRAMS)
def test_another_backend_is_refused_by_the_programs(program, flags, tmp_path):
    (tmp_path / "run.mat").touch()
    flags = [flag.format(tmp_path / "run") for flag in flags]
    environment = os.environ | {"KERAS_BACKEND": "torch"}
    command = [sys.executable, "-m", program, *flags]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    # The first line says what is begun, before seconds of import.
    _, line = done.stderr.strip().splitlines()
    assert "tensorflow" in line
    assert "torch" in line
    assert "KERAS_BACKEND" in line


def test_another_backend_is_refused_by_the_library(monkeypatch):
    import keras

    from robustra_tf.backend import BackendError, require_tensorflow_backend

    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(BackendError, match=r"tensorflow, got jax; set .*KERAS_BACKEND"):
        require_tensorflow_backend()
