"""Publish, verify, collect and describe releases (the folder ``dist``).

Neighbours publish with :mod:`kiln.release.publish`, verify with :mod:`kiln.release.verify`, and
take names and paths from :mod:`kiln.release.layout`.
"""
