"""Measurements of ``make bench``: kiln beside the hand-written way, in the same image."""
