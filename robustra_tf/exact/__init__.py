"""Complete verification: the exact answer, by search, where a bound alone leaves it open."""

from robustra_tf.exact.verdict import Status, Verdict
from robustra_tf.exact.verifier import SOLVERS, Verifier

__all__ = ["SOLVERS", "Status", "Verdict", "Verifier"]
