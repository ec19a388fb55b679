"""Hostile stage code: these modules are laid where a stage's code lies, and run in the container.

Python 3.9, the standard library, and nothing of kiln's.
"""
