"""Run a plan: the container engine, and the executor of this machine.

Neighbours pass a plan to :class:`kiln.running.executor.Runner`, find an engine with
:mod:`kiln.running.engine`, and bound a container with :mod:`kiln.running.limits`. The other modules
read a container's messages and files as untrusted input.
"""
