"""The code that a plan says its stages run is the code in `source.tar`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from stated_toy import ONE, problems
from toy_release import ToyModel, toy_model

from kiln.project.closures import Closure, StageCode
from kiln.signing import keys
from kiln.signing.signer import KeySigner

STAGES = {
    "__init__.py": "",
    "steps/__init__.py": "",
    "steps/export.py": "",
    "steps/annotate.py": "from stages import shared\n",
    "steps/convert.py": "",
    "shared.py": "",
}
FILES = ("__init__.py", "__main__.py", "shared.py", "steps/__init__.py", "steps/annotate.py")


@pytest.fixture
def signer(tmp_path: Path) -> KeySigner:
    return KeySigner(keys.load_or_create_key(tmp_path / "signing-key.pem"))


def made(root: Path, edit: Callable[[StageCode], StageCode] = lambda code: code) -> ToyModel:
    return toy_model(root / "project", "toy", {"float32": b"a"}, stages=STAGES, edit=edit)


def test_it_is_recorded_and_verifies(tmp_path: Path, signer: KeySigner) -> None:
    toy = made(tmp_path)
    closures = toy.statements[ONE]["predicate"]["buildDefinition"]["internalParameters"]["plan"][
        "closures"
    ]
    assert set(closures) == {"export", "convert", "annotate"}
    assert closures["annotate"]["files"] == list(FILES)
    assert problems(toy, signer) == {}


LIES: dict[str, Callable[[Closure], Closure]] = {
    "other code": lambda closure: replace(closure, digest="0" * 64),
    "less code": lambda closure: replace(
        closure, files=tuple(path for path in closure.files if path != "shared.py")
    ),
    "code that is not there": lambda closure: replace(
        closure, files=tuple(sorted([*closure.files, "more.py"]))
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_found_though_every_key_follows_from_it(
    tmp_path: Path, signer: KeySigner, lie: str
) -> None:
    def edit(code: StageCode) -> StageCode:
        return replace(code, closures={**code.closures, "annotate": LIES[lie](code.of("annotate"))})

    found = problems(made(tmp_path, edit), signer)
    assert "has a plan for other stage code than source.tar holds" in "; ".join(found[ONE])
