"""What the gates found, whether that may be published, and the runtimes that are asked: LiteRT and
MediaPipe, in a process apart. Neighbours use :mod:`kiln.checks.verdict`; whoever needs a runtime
goes through :mod:`kiln.checks.worker_process`.
"""
