"""Measurements of ``make bench``: kiln compared with hand-written scripts in the same image."""
