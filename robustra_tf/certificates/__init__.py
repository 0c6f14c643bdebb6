"""Certificates of robustness, and what they rest on."""
