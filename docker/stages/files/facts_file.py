"""The file with an export's facts, in the SavedModel that it made.

It is apart from the exports, so that what only reads it does not run again when they change.
"""

from __future__ import annotations

FACTS_FILE = "export.json"
"""Name of the facts of :mod:`stages.steps.export` inside ``saved_model/assets.extra/``."""
