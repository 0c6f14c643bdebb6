"""Where a cluster of Dask's is, and how it may be spoken to: settings, with nothing of Dask."""

from __future__ import annotations

import dataclasses
import importlib.util
import ipaddress
import re
from pathlib import Path
from typing import NamedTuple, Protocol, Self

from robustra_tf.cli import command, settings
from robustra_tf.cli.settings import Range, SettingError
from robustra_tf.storage.reading import read_json

_FORMS = "local:N, tcp://HOST:PORT, tls://HOST:PORT or a scheduler's file"
_ADDRESS = re.compile(r"(tcp|tls)://(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):(\d{1,5})")
#: Workers that one machine may be asked for.
_MOST = 1024
_TOPIC = "Cluster (the extra `cluster`)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clustered:
    """The settings of a command that knows clusters, which declares each as `command.same`."""

    cluster: str | None = command.setting(
        f"workers of Dask's that decide: {_FORMS}", None, topic=_TOPIC
    )
    tls_ca_file: Path | None = command.setting(
        "who signs the certificates of a tls:// cluster", None, topic=_TOPIC
    )
    tls_cert: Path | None = command.setting("this program's certificate", None, topic=_TOPIC)
    tls_key: Path | None = command.setting("its key", None, topic=_TOPIC)
    insecure: bool = command.setting(
        "speak to a scheduler that others can reach without TLS, and run code by",
        False,
        topic=_TOPIC,
    )


class Given(Protocol):
    """What has these settings."""

    @property
    def cluster(self) -> str | None:
        """Where it is."""
        ...

    @property
    def tls_ca_file(self) -> Path | None:
        """Who signs certificates."""
        ...

    @property
    def tls_cert(self) -> Path | None:
        """Certificate."""
        ...

    @property
    def tls_key(self) -> Path | None:
        """Its key."""
        ...

    @property
    def insecure(self) -> bool:
        """Whether others may reach the scheduler."""
        ...

    @property
    def workers(self) -> int:
        """Processes of this machine."""
        ...


#: Names of the settings, none of which changes what is decided.
NAMES = command.names(Clustered)
#: Those that are files.
PATHS = _TLS = ("tls_ca_file", "tls_cert", "tls_key")


class Place(NamedTuple):
    """Where a cluster's scheduler is.

    Attributes:
      workers: of a cluster that this program begins on this machine; 0 of one that is there.
      address: of the scheduler that is there.
      tls: files of the certificates by their names in Dask's `Security`; none without TLS.
    """

    workers: int
    address: str
    tls: dict[str, str]

    @classmethod
    def of(cls, given: Given) -> Self:
        """Reads the settings.

        Raises:
          SettingError: a place in no form that is known, a file that is not there or names no
            scheduler, settings that do not go together.
        """
        text = settings.known("cluster", given.cluster)
        scheme, _, rest = text.partition(":")
        if scheme == "local":
            if not re.fullmatch(r"\d{1,9}", rest):
                raise SettingError("cluster", _FORMS, text)
            settings.within("cluster", int(rest), Range(1, _MOST, "workers"))
            _no_certificates(given, text)
            return cls(int(rest), "", {})
        address = text if "://" in text else _named(Path(text).expanduser())
        if not _ADDRESS.fullmatch(address):
            raise SettingError("cluster", _FORMS, address)
        return cls(0, address, _certificates(given, address))


def check(given: Given) -> None:
    """Refuses (`SettingError`) settings of a cluster that cannot be meant."""
    if given.cluster is None:
        for name in NAMES:
            if getattr(given, name):
                raise SettingError(name, "--cluster with it", str(getattr(given, name)))
        return
    if given.workers != 1:
        raise SettingError("workers", "one of --workers and --cluster", given.workers)
    if importlib.util.find_spec("distributed") is None:
        wanted = "the package distributed, which pip install 'robustra-tf[cluster]' brings"
        raise SettingError("cluster", wanted, given.cluster)
    place = Place.of(given)
    if place.address:
        require_private(place.address, given.insecure)


def require_private(address: str, insecure: bool) -> None:
    """Refuses a scheduler that others can reach without TLS.

    Whoever reaches a scheduler of Dask's runs code on it, on its workers and on those who ask it:
    its messages are unpickled.

    Raises:
      SettingError: such a one, and `insecure` does not say that this is known.
    """
    found = _ADDRESS.fullmatch(address)
    if insecure or (found and (found[1] == "tls" or _is_loopback(found[2]))):
        return
    wanted = "tls://, or a loopback address (--insecure if all who reach its port are trusted)"
    raise SettingError("cluster", wanted, address)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _named(path: Path) -> str:
    """The address that a scheduler's file names."""
    try:
        about = read_json(path)
    except (OSError, ValueError) as error:
        raise SettingError("cluster", f"{_FORMS} ({error})", str(path)) from error
    address = about.get("address") if isinstance(about, dict) else None
    if not isinstance(address, str):
        raise SettingError("cluster", "a scheduler's file, with its `address`", str(path))
    return address


def _certificates(given: Given, address: str) -> dict[str, str]:
    if not address.startswith("tls://"):
        _no_certificates(given, address)
        return {}
    for name in _TLS:
        path = getattr(given, name)
        if path is None or not path.expanduser().is_file():
            wanted = "an existing file (.pem) with a tls:// cluster"
            raise SettingError(name, wanted, None if path is None else str(path))
    ca_file, cert, key = (str(getattr(given, name).expanduser()) for name in _TLS)
    return {"tls_ca_file": ca_file, "tls_client_cert": cert, "tls_client_key": key}


def _no_certificates(given: Given, place: str) -> None:
    for name in _TLS:
        if getattr(given, name) is not None:
            raise SettingError(name, f"none but with tls://, and --cluster={place}", "one")
