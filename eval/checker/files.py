"""Checks a proof's file as a whole."""

from __future__ import annotations

import os
from typing import NamedTuple

from . import proof
from .network import Network, WrongError
from .rejection import RejectedError
from .verdict import Checker, Found


class Options(NamedTuple):
    """How proofs are checked.

    Attributes:
      float32: whether they are to hold for the float32 forward pass too.
      exact: whether everything is derived in fractions.
      network_sha256: that the network must have; None for the one that the file names.
    """

    float32: bool = False
    exact: bool = False
    network_sha256: str | None = None


#: Real numbers, in float64 rounded outward.
PLAIN = Options()


class Checked(NamedTuple):
    """A file that was accepted, and what follows for its examples."""

    proof: proof.Proof
    found: tuple[Found, ...]


def check(
    path: str | os.PathLike, options: Options = PLAIN, shared: proof.Read | None = None
) -> Checked:
    """Accepts a proof's file by returning what follows from it.

    Args:
      path: the file.
      options: how.
      shared: the network of its directory, where that was read before.

    Raises:
      UnreadableError: it is no proof; which field, and why.
      RejectedError: the first example, and the layer, tree or leaf that does not hold.
    """
    read = proof.read(path, shared)
    if read.named_sha256 != read.sha256:
        raise RejectedError("network", "network_sha256", f"the network's hash is {read.sha256}")
    asked = options.network_sha256
    if asked is not None and asked.lower() != read.sha256:
        raise RejectedError("network", "network_sha256", f"{read.sha256} is another network's")
    checker = checker_of(read, options)
    found = [checker.check(one, f"example {k}") for k, one in enumerate(read.examples)]
    return Checked(read, tuple(found))


def checker_of(read: proof.Proof | proof.Read, options: Options) -> Checker:
    """What checks examples of a network."""
    if not options.exact:
        return Checker(read.nodes, options.float32)
    try:
        exact = Network(read.described, read.weights, exact=True).nodes
    except WrongError as error:
        raise RejectedError("network", "exact", str(error)) from error
    return Checker(read.nodes, exact=exact)
