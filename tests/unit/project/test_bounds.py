"""What is read of others' files is bounded, by data that fits what is real."""

from __future__ import annotations

import ast

import pytest
from places import SCRIPTS

from kiln.project import bounds
from kiln.project.bounds import Bound

SOURCES = SCRIPTS / "kiln"

#: Where JSON is read by the module that knows no bounds, and why that will do.
PLAIN_JSON = {
    "core.untrusted": "the one place that bounds it",
    "core.store": "manifests that only the store writes; a damaged one counts as absent",
    "images.inside": "runs alone in a container, on what the driver has just written",
    "images.definition": "turns paths into text and back, in one expression",
    "statements.plan_data": "what canonical_json has just written",
    "statements.make": "records that this build has just written",
}


def kinds() -> dict[str, Bound]:
    return {name: item for name, item in vars(bounds).items() if isinstance(item, Bound)}


@pytest.mark.parametrize("name", sorted(kinds()))
def test_a_bound_leaves_room_for_real_files(name: str) -> None:
    """Several times the largest; a data set is the user's own, and need not grow so much."""
    bound = kinds()[name]
    assert bound.largest < bound.most
    assert name == "ANNOTATIONS" or bound.most >= 8 * bound.largest


def test_what_is_parsed_fits_into_memory() -> None:
    """JSON takes up to thirty times its text: what a stranger sends stays below 300 MB."""
    for name in ("STATEMENT", "MODEL_SIGNATURE", "RECORD", "MEASUREMENTS", "TRUSTED_ROOT"):
        assert kinds()[name].most <= 4 << 20


def modules() -> list[tuple[str, ast.AST]]:
    return [
        (".".join(path.relative_to(SOURCES).with_suffix("").parts), ast.parse(path.read_text()))
        for path in sorted(SOURCES.rglob("*.py"))
    ]


def test_json_and_toml_are_read_in_one_place() -> None:
    plain = set()
    for name, tree in modules():
        for node in ast.walk(tree):
            words = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            imported = isinstance(node, ast.Import | ast.ImportFrom | ast.Constant) and (
                "tomllib" in ast.unparse(node) or "tomli" in ast.unparse(node)
            )
            from_json = isinstance(node, ast.ImportFrom) and node.module == "json"
            if words in ("json.loads", "json.load"):
                plain.add(name)
            if name != "core.untrusted":
                assert not (imported or from_json), f"{name}: use kiln.core.untrusted"
    assert plain == PLAIN_JSON.keys()


#: Where a whole file is read without a bound, and why that will do.
UNBOUNDED = {
    "signing.model_signature": "a signature that was made a moment ago",
    "core.lease": "/proc",
    "core.machine": "/proc",
    "page.snippets": "kiln's own files",
    "images.container": "kiln's own program",
    "running.visibility": "files of this run, of at most 64 KiB",
    "statements.source_archive": "the user's own checkout",
    "cli.images_sbom": "the user's own checkout",
    "sources.debian": "the user's own checkout, and the machine's",
    "sources.pypi": "the user's own checkout",
    "running.stage_user": "/proc, and the machine's own lists of ids",
    "reproduce.rerun": "a log that this run has just written",
    "core.store": "manifests that only the store writes",
    "release.publish": "a statement beside which the folder's other files were found to be ours",
}


def test_whole_files_are_read_within_bounds() -> None:
    found = {
        name
        for name, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("read_bytes", "read_text")
    }
    assert found == UNBOUNDED.keys()
