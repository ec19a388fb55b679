"""Rebuild a release's artefacts from their provenance alone, and compare the bytes.

Neighbours open what a user names with :mod:`kiln.reproduce.targets` and run it with
:mod:`kiln.reproduce.rerun`.
"""
