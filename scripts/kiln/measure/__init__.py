"""Measure accuracy and latency of artefacts, and record the figures in files.

Only the command line uses it: :mod:`kiln.measure.accuracy` and :mod:`kiln.measure.latency` measure,
the other modules support them.
"""
