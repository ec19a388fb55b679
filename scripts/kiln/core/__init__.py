"""Provide errors, files, digests, the local store and output. Nothing here knows TFLite,
containers, signatures or this project's own folders. Every other package may use all of it.
"""
