"""Bundles: one file with everything that building and reproducing need, for machines off the
network. Neighbours gather with :mod:`kiln.bundle.contents`, and write and import with
:mod:`kiln.bundle.writing` and :mod:`kiln.bundle.reading`.
"""
