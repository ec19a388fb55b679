"""For all tests."""

from __future__ import annotations

from hypothesis import settings

# Times are measured by `make bench`: a busy machine must not fail a property that holds.
settings.register_profile("kiln", deadline=None)
settings.load_profile("kiln")
