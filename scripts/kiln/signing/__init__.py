"""Keys, signatures, and whom a verification trusts with what.

Neighbours take a signer from :mod:`kiln.signing.signer`, trust from :mod:`kiln.signing.trust` or
:mod:`kiln.signing.trust_file`, and the names that statements and their files go by from
:mod:`kiln.signing.statement_names`.
"""
