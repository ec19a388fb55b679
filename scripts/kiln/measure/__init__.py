"""Measure accuracy and latency of artefacts, and record the figures in files.

The command line and the public functions of :mod:`kiln` use it: :mod:`kiln.measure.accuracy`,
:mod:`kiln.measure.bench` and :mod:`kiln.measure.quantisation`. The other modules support them.
"""
