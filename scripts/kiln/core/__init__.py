"""Provide errors, files, digests, the local store and console output. Nothing here knows TFLite,
containers or signatures. Every other package may use all of it.
"""
