"""Showing that bytes stay the same: elsewhere, on other processors, and made again."""
