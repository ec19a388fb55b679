"""Make and verify the statements about artefacts and releases: provenance, test results, sources.

Neighbours make the statements of a model with :mod:`kiln.statements.make`, check them against the
files with :mod:`kiln.statements.verify`, and read one with the module of its name.
"""
