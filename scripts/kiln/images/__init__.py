"""Define, build, seal, lock, compare and move the sealed images.

Neighbours get a locked image from :mod:`kiln.images.lock` and make sure that an engine holds it
with :class:`kiln.images.builder.Images`.
"""
