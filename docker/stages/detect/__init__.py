"""Running an artefact by its own metadata, and telling which detection is which of another list."""
