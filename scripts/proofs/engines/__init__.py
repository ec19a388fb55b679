"""kiln on every engine that Debian has, for :mod:`proofs.engines.table`."""
