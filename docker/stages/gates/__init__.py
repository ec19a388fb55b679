"""Compute the gates of ``checks.json``: findings, and whether they pass."""
