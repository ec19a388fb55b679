"""``core`` is about no subject of this project: it names none."""

from __future__ import annotations

import re

from places import SCRIPTS

CORE = SCRIPTS / "kiln" / "core"

#: Whatever happens has to have a class and an exit code in one place; and the package's docstring
#: says what is not in it.
NAMED = {"errors.py", "__init__.py"}

SUBJECTS = re.compile(
    r"(?<![\w-])(tflite|tensorflow|docker|podman|containers?|sealed|signatures?|signed|sigstore"
    r"|attestations?|provenance|checkpoints?|variants?)(?!-kiln|\w)",
    re.IGNORECASE,
)


def test_a_subject_would_be_seen() -> None:
    assert [
        match[0] for match in SUBJECTS.finditer("A signed TFLite of tflite-kiln, resigned")
    ] == [
        "signed",
        "TFLite",
    ]


def test_core_names_no_subject() -> None:
    found = {
        path.name: [match[0] for match in SUBJECTS.finditer(path.read_text("utf-8"))]
        for path in CORE.glob("*.py")
        if path.name not in NAMED
    }
    assert len(found) > 10
    assert {name: words for name, words in found.items() if words} == {}
