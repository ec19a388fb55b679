"""Errors, files, digests, the local store, and what people see: knows nothing of TFLite, containers
or signatures. Every other package may use all of it.
"""
