"""The folder ``dist``: published, verified, collected from parts, described.

Neighbours publish with :mod:`kiln.release.publish`, verify with :mod:`kiln.release.verify`, and
take names and paths from :mod:`kiln.release.layout`.
"""
