"""Proofs of verdicts as files: what they hold, and the bounds that follow from it."""
