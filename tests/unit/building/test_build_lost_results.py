"""Builds from a store that has lost something: what they publish is whole, or they say why not."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from toy_container import Container, Doorman
from toy_stages import LABELS, MODEL, REASON, VARIANTS, make_builder, make_toy, run_stages

from kiln.building.build import Builder, ModelBuild
from kiln.core.digest import sha256_file
from kiln.core.errors import KilnError, StoreError
from kiln.core.store import DamagedContentError, Store
from kiln.project.folders import Project
from kiln.recipes.recipe import discover
from kiln.recipes.selection import select
from kiln.release.verify import verify
from kiln.running.limits import Outcome
from kiln.signing.keys import load_or_create_key

#: What a record must name, whatever ran: the whole plan of the variants that are published.
ALWAYS = {"previews"}
CONVERTED = {"export", "reference"}


def steps_of(variants: Collection[str]) -> set[str]:
    found = set(ALWAYS)
    for variant in variants:
        ids = ("annotate", "check", "task-library", "litert", "mediapipe")
        found |= {f"{name}-{variant}" for name in ids}
        found |= {"adopt"} if variant == "prebuilt" else {f"convert-{variant}", *CONVERTED}
    if {"prebuilt", "float32"} <= set(variants):
        found.add("compare-prebuilt")
    return found


@dataclass
class Place:
    """A project with a store and a release, and what its last build told."""

    root: Path
    project: Project
    door: Doorman | None = None

    def __post_init__(self) -> None:
        self.store = Store(self.root / "store")
        self.dist = self.root / "dist"
        self.events: list[dict[str, Any]] = []
        self.during: Callable[[], object] = lambda: None

    def build(self, *variants: Any) -> ModelBuild:
        """Build some variants, all where none is named; raises what the build failed with."""
        builder, self.events, self.door = make_builder(self.project, self.store, self.dist)
        self.door.play = self._play
        found = self._built(builder, variants)
        if found.error is not None:
            raise found.error
        self.check([artefact.variant for artefact in found.artefacts])
        return found

    def _built(self, builder: Builder, variants: Any) -> ModelBuild:
        models = self.project.models
        (found,) = builder.build(select(models, discover(models), [MODEL]), variants)
        return found

    def _play(self, container: Container) -> Outcome:
        outcome = run_stages(self.project, container)
        self.during()
        return outcome

    def ran(self) -> set[str]:
        """The stages that the last build ran."""
        assert self.door is not None
        return {stage["id"] for call in self.door.calls for stage in call["request"]["stages"]}

    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.dist / MODEL / "conversion.json").read_bytes())
        return found

    def notes(self) -> str:
        return "\n".join(e["message"] for e in self.events if e["event"] == "note")

    def check(self, variants: Collection[str]) -> None:
        """What is published verifies, names the whole plan, and every warning is there."""
        folder = self.dist / MODEL
        verify(self.dist, load_or_create_key().public_pem)
        record = self.record()
        assert set(record["artefacts"]) == set(variants)
        assert set(record["stages"]) == steps_of(variants)
        assert all(stage["files"] or stage["facts"] for stage in record["stages"].values())
        there = {path.name for path in folder.glob("*.tflite")}
        wanted = {f"{MODEL}_{variant}.tflite" for variant in variants}
        if "prebuilt" in variants:
            wanted.add(f"{MODEL}_prebuilt_original.tflite")
        assert there == wanted
        for file in folder.glob("attestations/*.provenance.sigstore.json"):
            payload = json.loads(file.read_bytes())["dsseEnvelope"]["payload"]
            plan = json.loads(_decoded(payload))["predicate"]["buildDefinition"]
            for step in plan["internalParameters"]["plan"]["steps"]:
                assert record["stages"][step["id"]]["key"] == step["key"]
        untrained = bool(set(variants) - {"prebuilt"})
        assert record["untrained"] == ([REASON] if untrained else [])
        assert (f"the prediction heads are untrained: {REASON}" in self.notes()) is untrained
        assert record["label_notes"] == [LABELS]
        assert self.notes().count(LABELS) == 1, "once, not once for each variant"
        assert ("failed, as allowed" in self.notes()) is ("int8" in variants)
        checks = json.loads((folder / "checks.json").read_bytes())
        assert set(checks["variants"]) == set(variants)
        for entry in checks["variants"].values():
            # The checks' own words on what they read, not what is said of it.
            assert len(entry["gates"]) == 4
            judged = {gate["summary"] for gate in entry["gates"]}
            assert judged == {sha256_file(folder / entry["file"])}
        for image in checks["images"].values():
            assert (folder / image["preview"]).read_bytes().startswith(b"small ")

    def results(self) -> list[Path]:
        return sorted((self.store.root / "results").glob("*.json"))

    def blobs(self) -> list[Path]:
        return sorted((self.store.root / "blobs" / "sha256").glob("??/*"))

    def refs(self) -> list[Path]:
        return sorted((self.store.root / "refs").glob("*/*.json"))

    def result_of(self, step: str) -> Path:
        return self.store.root / "results" / f"{self.record()['stages'][step]['key']}.json"

    def forget(self, step: str) -> None:
        """Remove what the store remembers of a step, under its key and under its content."""

        def said(path: Path) -> dict[str, Any]:
            return {**json.loads(path.read_bytes()), "key": ""}

        wanted = said(self.result_of(step))
        for path in self.results():
            if said(path) == wanted:
                path.unlink()

    def largest(self, step: str) -> Path:
        """The largest blob that a published step made."""
        digests = self.record()["stages"][step]["files"].values()
        return max((self.store.path(item) for item in digests), key=lambda p: p.stat().st_size)


def _decoded(text: str) -> bytes:
    from base64 import b64decode

    return b64decode(text)


def flip(path: Path) -> None:
    """Change one byte in the middle: the size stays."""
    data = bytearray(path.read_bytes())
    if data:
        data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(0o444)


def cut(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])


def private(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(root / "config"))
    for name in ("KILN_SIGNING_KEY", "KILN_SIGNING_KEY_PEM", "KILN_PROJECT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Nothing is built yet."""
    private(monkeypatch, tmp_path)
    project, _ = make_toy(tmp_path / "project")
    return Place(tmp_path, project)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("once")
    with pytest.MonkeyPatch.context() as patch:
        private(patch, root)
        project, _ = make_toy(root / "project")
        Place(root, project).build()
    return root


@pytest.fixture
def built(once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """All variants are built."""
    root = tmp_path / "again"
    shutil.copytree(once, root)
    private(monkeypatch, root)
    return Place(root, Project(root / "project"))


# --- one loss at a time --------------------------------------------------------------------------


def test_a_lost_file_of_the_export_and_then_another_variant(place: Place) -> None:
    """The record named fewer steps than the provenance, and `kiln verify` refused the release."""
    place.build("int8")
    place.largest("export").unlink()
    place.build("float32")
    assert {"export", "convert-float32"} <= place.ran()
    assert "convert-int8" not in place.ran()
    assert set(place.record()["artefacts"]) == {"float32", "int8"}


def test_lost_files_that_nothing_needs_are_not_made_again(built: Place) -> None:
    before = built.record()
    for step in ("export", "convert-int8", "convert-float32"):
        built.largest(step).unlink()
    assert built.build().stages_run == 0
    assert built.record() == before


@pytest.mark.parametrize("step", sorted(steps_of(VARIANTS)))
def test_a_forgotten_result_is_made_again(built: Place, step: str) -> None:
    before = built.record()["stages"]
    built.forget(step)
    found = built.build()
    assert built.ran() == {step}
    assert found.stages_run == 1
    after = built.record()["stages"]
    same = ("stage", "key", "params", "facts", "files")
    assert [after[step][name] for name in same] == [before[step][name] for name in same]


@pytest.mark.parametrize("step", ["convert-int8", "annotate-float32", "check-int8"])
def test_a_forgotten_result_is_found_by_the_content_of_what_it_reads(
    built: Place, step: str
) -> None:
    before = built.record()
    built.result_of(step).unlink()
    assert built.build().stages_run == 0
    assert built.record() == before  # to the second that it once took


def test_forgetting_why_it_is_untrained(place: Place) -> None:
    """Nothing but the export says so, and nothing but the record needed it."""
    place.build("int8")
    place.result_of("export").unlink()
    place.build("int8")
    assert place.record()["untrained"] == [REASON]


def test_an_original_that_the_store_has_lost(place: Place) -> None:
    """It is published, though nothing else is made of it: to run the build again did not help."""
    place.build("prebuilt")
    place.largest("adopt").unlink()
    place.build("prebuilt")


@pytest.mark.parametrize("spoil", [Path.unlink, flip, cut])
@pytest.mark.parametrize("step", ["annotate-int8", "check-int8", "previews", "adopt"])
def test_what_is_published_is_what_it_is_called(
    built: Place, step: str, spoil: Callable[[Path], object]
) -> None:
    good = {path.name: path.read_bytes() for path in (built.dist / MODEL).glob("*.tflite")}
    spoil(built.largest(step))
    try:
        built.build()
    except StoreError:  # the publisher's file is a source, too
        assert step == "adopt"
        built.build()
    assert {p.name: p.read_bytes() for p in (built.dist / MODEL).glob("*.tflite")} == good


def test_a_damaged_input_reaches_no_stage(place: Place) -> None:
    """A result made of it would be kept under the key of one made of the right bytes."""
    place.build("int8")
    flip(place.largest("export"))
    place.build("float32")
    assert {"export", "convert-float32"} <= place.ran()
    clean = Place(place.root / "clean", place.project)
    clean.build("int8", "float32")
    file = f"{MODEL}/{MODEL}_float32.tflite"
    assert (place.dist / file).read_bytes() == (clean.dist / file).read_bytes()


@pytest.mark.parametrize("spoil", [flip, cut])
def test_a_damaged_source_is_refused_and_then_taken_again(
    place: Place, spoil: Callable[[Path], object]
) -> None:
    place.build("int8")
    weights = place.record()["source"]["files"]["checkpoint/ckpt-0.data"]
    spoil(place.store.path(weights))
    place.result_of("export").unlink()
    with pytest.raises(DamagedContentError, match=weights):
        place.build("int8")
    place.build("int8")


def test_damage_after_the_look_is_not_signed(place: Place) -> None:
    place.build("int8")
    place.result_of("export").unlink()
    place.during = lambda: flip(place.largest("annotate-int8"))
    before = sha256_file(place.dist / "SHA256SUMS")
    found = place.dist / MODEL / f"{MODEL}_int8.tflite"
    content = found.read_bytes()
    found.unlink()  # so that it has to be copied again
    with pytest.raises(KilnError, match="damaged"):
        place.build("int8")
    place.during = lambda: None
    assert sha256_file(place.dist / "SHA256SUMS") == before
    place.build("int8")
    assert found.read_bytes() == content


@pytest.mark.parametrize("spoil", [flip, cut])
def test_findings_that_are_damaged_once_made_are_not_believed(
    place: Place, spoil: Callable[[Path], object]
) -> None:
    place.build("int8")
    step = place.largest("check-int8")
    place.result_of("export").unlink()
    place.during = lambda: spoil(step)
    with pytest.raises(DamagedContentError, match=r"check\.json"):
        place.build("int8")
    place.during = lambda: None
    place.build("int8")


# --- any losses ----------------------------------------------------------------------------------


def lose(place: Place, rng: random.Random) -> str:
    """Take something from the store at random; says what."""
    how, things = rng.choice(
        [
            (Path.unlink, place.results()),
            (Path.unlink, place.blobs()),
            (Path.unlink, place.refs()),
            (flip, place.blobs()),
            (cut, place.blobs()),
            (cut, place.results()),
        ]
    )
    if not things:
        return "nothing"
    chosen = rng.choice(things)
    how(chosen)
    return f"{how.__name__} {chosen.relative_to(place.store.root)}"


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_lost(built: Place, place: Place, seed: int) -> None:
    """Each build ends well and verifies, or fails with an error of its own and leaves all whole."""
    right = {path.name: path.read_bytes() for path in (built.dist / MODEL).glob("*.tflite")}
    rng = random.Random(seed)
    story: list[str] = []
    place.build(rng.choice(VARIANTS))
    for _ in range(6):
        story += [lose(place, rng) for _ in range(rng.randrange(5))]
        place.during = (lambda: lose(place, rng)) if rng.random() < 0.3 else bool
        wanted = rng.sample(VARIANTS, rng.randrange(len(VARIANTS) + 1))
        story.append(f"build {wanted}")
        print(*story, sep="\n")  # shown where it fails
        try:
            place.build(*wanted)
        except KilnError as error:
            story.append(f"  {error}")
            verify(place.dist, load_or_create_key().public_pem)
            place.during = bool
            _heals(place, wanted)
        published = {path.name: path.read_bytes() for path in (place.dist / MODEL).glob("*.tflite")}
        assert published.items() <= right.items()
        assert not list(place.store.tmp.iterdir())


def _heals(place: Place, wanted: list[str], attempts: int = 20) -> None:
    """What is damaged is found one by one, where it is a source; each attempt gets further."""
    for _ in range(attempts):
        try:
            place.build(*wanted)
            return
        except KilnError as error:
            last = error
    raise last
