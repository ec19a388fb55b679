"""A release's artefacts made again from their provenance alone, and the bytes compared.

Neighbours open what a user points at with :mod:`kiln.reproduce.targets` and run it with
:mod:`kiln.reproduce.rerun`.
"""
