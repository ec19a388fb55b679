"""Run an artefact by its own metadata, and match the detections of two lists."""
