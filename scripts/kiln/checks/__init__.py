"""Collect the gates' results, and decide whether to publish.

Neighbours use :mod:`kiln.checks.verdict`.
"""
