"""Render the whole page."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from kiln.core.plain_text import plain
from kiln.page import differences, formats
from kiln.page.contents import read_release
from kiln.page.page_view import page_view

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE_FILE = "index.html"

_TEMPLATES = Path(__file__).parent / "templates"


def render(dist: Path, key_id: str | None = None) -> str:
    """Render the page for a release: HTML that needs no other file and no network.

    The same files in ``dist`` always give the same page; an earlier ``index.html`` and
    ``SHA256SUMS`` are not read. A model folder with damaged or missing records still gets its
    section, which reports them.

    Args:
        dist: the release folder; ``latency.json`` and ``accuracy.json`` in it are used if
            present.
        key_id: of the key that the page will be signed with, empty for none; by default that of
            the ``kiln.pub`` in ``dist``.

    Raises:
        UsageError: ``dist`` is not a folder, or holds no model.
    """
    release = read_release(dist)
    if key_id is not None:
        release = replace(release, key_id=key_id)
    page = environment().get_template("page.html").render(page=page_view(release))
    # Applied to the whole page, so that no text is missed: a name must not reorder the text around
    # it. Line by line, because the lines with pictures are ASCII, which is quick to see.
    return "\n".join(plain(line, keep="\t") for line in page.split("\n"))


@cache
def environment() -> Environment:
    """Set up Jinja for the page's templates; every value is escaped."""
    # Imported here: a build that has nothing to do publishes no page.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        megabytes=formats.megabytes,
        fixed=formats.fixed,
        signed=formats.signed,
        between=formats.between,
        difference=formats.difference,
        share=formats.share,
        count=formats.count,
        units=formats.units,
        csp_source=formats.csp_source,
    )
    environment.globals.update(
        anchor=formats.anchor,
        least_iou=differences.LEAST_IOU,
        most_score=differences.MOST_SCORE,
    )
    return environment
