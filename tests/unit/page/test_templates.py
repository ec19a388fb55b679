"""The page's templates: nothing in them lets text become markup, and nothing is left undefined."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from import_cost import also_imported
from jinja2 import Environment, UndefinedError, nodes
from places import ROOT

from kiln.page import document

TEMPLATES = sorted((ROOT / "scripts" / "kiln" / "page" / "templates").iterdir())


def test_values_are_escaped_and_have_to_be_there() -> None:
    show = document.environment().from_string('<p title="{{ value }}">{{ value }}</p>{{ gone }}')
    with pytest.raises(UndefinedError, match="gone"):
        show.render(value="")
    assert show.render(value="<i> & \"'", gone="") == (
        '<p title="&lt;i&gt; &amp; &#34;&#39;">&lt;i&gt; &amp; &#34;&#39;</p>'
    )


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_no_template_lets_text_through(path: Path) -> None:
    """No filter says that text is markup, no part is left unescaped, no value stands unquoted."""
    source = path.read_text("utf-8")
    syntax = Environment().parse(source)
    assert not list(syntax.find_all((nodes.EvalContextModifier, nodes.MarkSafe)))
    filters = {found.name for found in syntax.find_all(nodes.Filter)}
    assert not filters & {"safe", "xmlattr", "urlize", "forceescape", "tojson"}
    assert not re.search(r"=\s*\{[{%]", source)


def test_no_module_says_that_text_is_markup() -> None:
    for path in (ROOT / "scripts" / "kiln" / "page").glob("*.py"):
        assert not re.search("[Mm]arkup(safe)?[(.]|__html__", path.read_text("utf-8")), path.name


def test_jinja_is_imported_where_a_page_is_written() -> None:
    modules = "kiln.page.document, kiln.release.index_page, kiln.release.notes, kiln.cli.main"
    assert also_imported(modules, ["jinja2"]) == []
    assert also_imported("jinja2", ["jinja2"]) == ["jinja2"]  # the check can fail
