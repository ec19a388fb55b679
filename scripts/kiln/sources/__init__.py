"""Where kiln's inputs come from; everything fetched here is checked against a pin.

Neighbours fetch and verify a recipe's source with :mod:`kiln.sources.model`, and locked packages
with :mod:`kiln.sources.debian` and :mod:`kiln.sources.pypi`.
"""
