"""Create and import bundles: one file with everything to build and reproduce offline.

Neighbours gather with :mod:`kiln.bundle.contents`, and write and import with
:mod:`kiln.bundle.writing` and :mod:`kiln.bundle.reading`.
"""
