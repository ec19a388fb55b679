"""Bundles: one file with everything that building and reproducing need, for machines off the
network."""
