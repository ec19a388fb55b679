"""What is stated about artefacts and releases: provenance, test results, ``source.tar``.

Neighbours make the statements of a model with :mod:`kiln.statements.make`, hold them against the
files with :mod:`kiln.statements.verify`, and read one with the module of its name.
"""
