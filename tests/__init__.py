"""Tests of robustra_tf and its programs."""
