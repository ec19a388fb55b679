"""The same conversions under other circumstances; see ``proofs/reproducibility.py``."""
