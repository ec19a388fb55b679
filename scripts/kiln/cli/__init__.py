"""Parse arguments, print tables and exit codes: one file for each command, no logic of its own.

Nothing imports it; the program starts at :func:`kiln.cli.main.main`.
"""
