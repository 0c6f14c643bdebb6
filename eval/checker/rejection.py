"""Why a certificate is not accepted."""


class RejectedError(Exception):
    """A claim that does not hold; the text names the first layer and the field."""

    def __init__(self, layer: str, field: str, reason: str):
        super().__init__(f"{layer}: {field}: {reason}")
        self.layer, self.field = layer, field
