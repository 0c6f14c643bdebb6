"""Where a cluster is and how it may be spoken to: settings, without anything of Dask."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from eval import clustered, pools
from eval.workers import Processes
from robustra_tf.cli.settings import SettingError


def given(**changed):
    settings = {"cluster": None, "insecure": False, "workers": 1}
    return SimpleNamespace(**settings | dict.fromkeys(clustered.PATHS) | changed)


def test_places_have_three_forms(tmp_path):
    file = tmp_path / "scheduler.json"
    file.write_text(json.dumps({"address": "tcp://127.0.0.1:8786", "workers": {}}))
    for text, place in (
        ("local:4", (4, "")),
        ("tcp://localhost:8786", (0, "tcp://localhost:8786")),
        ("tcp://[::1]:8786", (0, "tcp://[::1]:8786")),
        (str(file), (0, "tcp://127.0.0.1:8786")),
    ):
        clustered.check(given(cluster=text))
        assert clustered.Place.of(given(cluster=text))[:2] == place
    assert isinstance(pools._cluster, object)
    with pools.opened(given(workers=2)) as pool:
        assert isinstance(pool, Processes)
    with pools.opened(given()) as pool:
        assert pool is None


def test_certificates_go_with_tls(tmp_path):
    files = {name: tmp_path / f"{name}.pem" for name in clustered.PATHS}
    for file in files.values():
        file.touch()
    place = clustered.Place.of(given(cluster="tls://head:8786", **files))
    assert set(place.tls) == {"tls_ca_file", "tls_client_cert", "tls_client_key"}
    clustered.check(given(cluster="tls://head:8786", **files))
    for changed, words in (
        ({"cluster": "tls://head:8786"}, "--tls_ca_file: expected an existing file"),
        ({"cluster": "tcp://127.0.0.1:1"} | files, "--tls_ca_file: expected none but with tls://"),
        ({"cluster": "local:2"} | files, "--tls_ca_file: expected none but with tls://"),
    ):
        with pytest.raises(SettingError, match=words):
            clustered.check(given(**changed))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"cluster": "local:0"}, "--cluster: expected at least 1 and at most 1024 workers"),
        ({"cluster": "local:x"}, "--cluster: expected local:N, tcp://HOST:PORT"),
        ({"cluster": "http://a:1"}, "--cluster: expected local:N"),
        ({"cluster": "nowhere.json"}, "--cluster: expected local:N.*nowhere.json"),
        ({"cluster": "tcp://10.0.0.7:8786"}, "--cluster: expected tls://, or a loopback"),
        ({"cluster": "tcp://node:8786"}, "--cluster: expected tls://, or a loopback"),
        ({"cluster": "local:2", "workers": 2}, "--workers: expected one of --workers and"),
        ({"insecure": True}, "--insecure: expected --cluster with it"),
        ({"tls_key": Path("k")}, "--tls_key: expected --cluster with it"),
    ],
)
def test_what_cannot_be_meant_is_refused(changed, words):
    with pytest.raises(SettingError, match=words) as raised:
        clustered.check(given(**changed))
    assert "\n" not in str(raised.value)
    if "10.0.0.7" in str(changed):
        clustered.check(given(insecure=True, **changed))


def test_the_extra_must_be_there(monkeypatch):
    monkeypatch.setattr(clustered.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingError, match=r"robustra-tf\[cluster\]"):
        clustered.check(given(cluster="local:2"))
