"""Errors, files, digests, the local store, and output: knows nothing of TFLite, containers or
signatures, nor of this project's own folders. Every other package may use all of it.
"""
