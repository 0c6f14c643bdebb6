"""Complete verification: the exact answer, by search, where a bound alone leaves it open."""

from robustra_tf.exact.properties import Decider, decide_property
from robustra_tf.exact.verdict import Status, Verdict
from robustra_tf.exact.verifier import SOLVERS, Verifier

__all__ = ["SOLVERS", "Decider", "Status", "Verdict", "Verifier", "decide_property"]
