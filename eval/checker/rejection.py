"""Why a certificate or a proof is not accepted."""

from __future__ import annotations


class RejectedError(Exception):
    """A claim that does not hold; the text names the first layer and the field."""

    def __init__(self, layer: str, field: str, reason: str):
        super().__init__(f"{layer}: {field}: {reason}")
        self.layer, self.field, self.reason = layer, field, reason

    def within(self, where: str) -> RejectedError:
        """The same, of a part of a whole."""
        return RejectedError(f"{where}: {self.layer}", self.field, self.reason)
