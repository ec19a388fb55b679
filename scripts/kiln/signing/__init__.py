"""Manage keys and signatures, and decide which signers to trust with what.

Neighbours take a signer from :mod:`kiln.signing.signer`, trust from :mod:`kiln.signing.trust` or
:mod:`kiln.signing.trust_file`, and the names of statements and their files from
:mod:`kiln.signing.statement_names`.
"""
