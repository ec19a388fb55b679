"""Collect the gates' results, decide whether to publish, and run other runtimes (LiteRT, MediaPipe)
in a separate process.

Neighbours use :mod:`kiln.checks.verdict`; runtimes are used through
:mod:`kiln.checks.worker_process`.
"""
