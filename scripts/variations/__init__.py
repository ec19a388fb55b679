"""The same conversions under other circumstances; see ``scripts/reproducibility.py``."""
