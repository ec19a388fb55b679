"""Sealed images: defined, built, sealed, locked, compared, moved.

Neighbours get a locked image from :mod:`kiln.images.lock` and make sure that an engine holds it
with :class:`kiln.images.builder.Images`.
"""
