"""Statements about artefacts and releases, signed: provenance, test results, what a release is."""
