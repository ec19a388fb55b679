"""Targets: what a user points at, and what is chosen of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toy_reproduce import ToyRelease, emptied

from kiln.core.errors import UsageError, VerificationError
from kiln.reproduce.targets import chosen, recorded_in


def test_every_kind_of_target(release: ToyRelease) -> None:
    dist = release.write()
    for target in (dist, release.folder, release.folder / "attestations"):
        assert [item.variant for item in recorded_in(target, None)] == ["float32", "int8"]
    for target in (release.provenance("int8"), release.folder / "toy_int8.tflite"):
        assert [item.variant for item in recorded_in(target, None)] == ["int8"]
    with pytest.raises(UsageError, match="no provenance"):
        recorded_in(release.root / "released", None)
    with pytest.raises(UsageError, match="There is no"):
        recorded_in(release.root / "nothing", None)


def test_a_bare_statement_only_where_nobody_is_asked_to_vouch(
    release: ToyRelease, tmp_path: Path
) -> None:
    path = tmp_path / "statement.json"
    path.write_text(json.dumps(release.statement("int8")))
    with pytest.raises(VerificationError, match="without a signature") as caught:
        recorded_in(path, lambda *_: {})
    assert "--unverified" in caught.value.remedy
    assert recorded_in(path, None)[0].variant == "int8"


def test_another_key(release: ToyRelease, tmp_path: Path) -> None:
    release.write()
    release.key = ToyRelease(emptied(tmp_path / "stranger")).key
    with pytest.raises(VerificationError, match="another key"):
        release.read()


def test_only_what_was_named(release: ToyRelease) -> None:
    release.write()
    found = release.read()
    assert [item.variant for item in chosen(found, (), ("int8",))] == ["int8"]
    with pytest.raises(UsageError, match="int9"):
        chosen(found, (), ("int9",))
    with pytest.raises(UsageError, match="toi"):
        chosen(found, ("toi",), ())


def test_two_statements_about_one_file(release: ToyRelease) -> None:
    release.write()
    place = release.provenance("int8")
    other = place.with_name("a-copy.provenance.sigstore.json")
    other.write_bytes(place.read_bytes())
    assert len(release.read()) == 2
    release.edit = lambda s: s["subject"][0]["digest"].update(sha256="e" * 64)
    kept = other.read_bytes()
    release.write()
    other.write_bytes(kept)
    with pytest.raises(VerificationError, match="different things about one file"):
        release.read()
