"""Accuracy and latency of artefacts, and the files that figures are written to.

Only the command line uses it: :mod:`kiln.measure.accuracy` and :mod:`kiln.measure.latency` measure,
the other modules are what they need.
"""
