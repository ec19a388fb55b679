"""Resolving what kiln, its tests and its images are made of, and telling what changed."""
