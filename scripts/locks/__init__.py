"""Resolve the requirements of kiln, its tests and its images, and list changes."""
