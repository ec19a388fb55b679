"""The circumstances of ``proofs/reproducibility.py``, and running kiln under them."""
