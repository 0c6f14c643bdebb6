"""Facts about operations that one consumer alone needs, written down where it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from robustra_tf.graph.ops import Op


class PerOperation:
    """`function(op, ...)`, written for each kind of operation.

        taps = PerOperation("that is counted")

        @taps.of(Dense)
        def _(op: Dense) -> int:
            return 2 * op.inputs

    A kind that nobody has written it for is refused, not taken for another one.
    """

    def __init__(self, known: str):
        """`known` ends the sentence of the error: op must be one ...."""
        self._known = known
        self._functions: dict[type[Op], Callable[..., Any]] = {}

    def of(self, *kinds: type[Op]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Has a function serve some kinds of operations, and those that derive from them."""

        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            self._functions |= dict.fromkeys(kinds, function)
            return function

        return register

    def __call__(self, op: Op, *arguments: Any) -> Any:
        """The function of the operation's kind.

        Raises:
          TypeError: there is none.
        """
        for kind in type(op).__mro__:
            if kind in self._functions:
                return self._functions[kind](op, *arguments)
        raise TypeError(f"op must be one {self._known}, got {type(op).__name__}")
