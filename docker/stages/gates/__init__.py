"""The gates of ``checks.json``: each says what it found, and whether that passes."""
