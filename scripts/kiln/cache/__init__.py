"""Share stage results between machines through a folder or bucket (``KILN_CACHE``).

Neighbours open it with :mod:`kiln.cache.opening` and use :class:`kiln.cache.shared.SharedResults`.
docs/cache.md says what lies where, and who is trusted.
"""
