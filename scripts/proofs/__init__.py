"""Prove that bytes are reproducible: elsewhere, on other processors, and in a rebuild."""
