"""Running a plan: the container engine, and the executor of this machine.

Neighbours hand a plan to :class:`kiln.running.local.Runner`, find an engine with
:mod:`kiln.running.engine`, and bound a container with :mod:`kiln.running.limits`; what a container
says and writes is read by the other modules, as something hostile.
"""
