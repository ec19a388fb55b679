"""Leases that a dead process left."""

from __future__ import annotations

from kiln.core.lease import tagged_name

DEAD = "999999999-1-{scope}.0123abcd"


def dead_tag() -> str:
    """The tag of a process of this boot that no longer lives."""
    scope = tagged_name().split(".")[0].split("-")[2]
    return DEAD.format(scope=scope)
