"""Making a release's artefacts again, from their provenance alone, and comparing the bytes."""
