"""Define the circumstances of ``proofs/reproducibility.py``, and run kiln under them."""
