"""Artefacts made again from their provenance: what is refused, found, run, compared and said."""

from __future__ import annotations

import copy
import json
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from local_server import serving
from test_run import Container
from toy_project import SEALED, make_project, small_archive
from toy_reproduce import (
    ADDRESS,
    COMMIT,
    IMAGE,
    LABELS,
    REPOSITORY,
    WEIGHTS,
    Machine,
    ToyRelease,
    emptied,
    made,
    play,
)

from kiln.bundle.contents import Contents
from kiln.bundle.needs import needs_of
from kiln.bundle.writing import write
from kiln.cli.reproduce import _judge, reproduce
from kiln.core.digest import sha256_bytes, sha256_file
from kiln.core.errors import (
    CannotReproduceError,
    EngineUnavailableError,
    ImageMismatchError,
    NotReproducedError,
    UsageError,
    VerificationError,
)
from kiln.core.store import Blob, StageResult, Store
from kiln.reproduce.inputs import Inputs
from kiln.reproduce.merging import merge
from kiln.reproduce.recorded import Archive, Recorded, read
from kiln.reproduce.targets import chosen, recorded_in
from kiln.reproduce.verdict import Verdict, suspects
from kiln.running.limits import Limits, Outcome
from kiln.sources.http import make_session


@pytest.fixture
def release(tmp_path: Path) -> ToyRelease:
    return ToyRelease(tmp_path)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "machine")


def outcomes(verdicts: dict[str, Verdict]) -> dict[str, str]:
    return {file: verdict.outcome for file, verdict in verdicts.items()}


# --- what is recorded ------------------------------------------------------------------------


def test_what_a_statement_says(release: ToyRelease) -> None:
    item = read(release.statement("int8"), Path("x.json"))
    assert (item.model, item.variant, item.file) == ("toy", "int8", "toy_int8.tflite")
    assert item.sha256 == sha256_bytes(made("int8"))
    assert item.limits == Limits(memory=3 << 30, timeout=90.0)
    assert item.image == "odapi"
    assert item.inputs() == {
        sha256_bytes(WEIGHTS): "export/checkpoint/ckpt-0.data",
        sha256_bytes(IMAGE): "convert-int8/images/cat.png",
        sha256_bytes(LABELS): "annotate-int8/label_map",
    }
    assert item.came_from("export/checkpoint/ckpt-0.data") == ADDRESS
    assert item.came_from("convert-int8/images/cat.png") == f"{REPOSITORY}@{COMMIT}"
    assert not item.plain_export


def spots(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in plain data."""
    inside = value.items() if isinstance(value, dict) else ()
    for key, below in enumerate(value) if isinstance(value, list) else inside:
        yield (*path, key)
        yield from spots(below, (*path, key))


def test_nothing_in_a_statement_ends_in_a_traceback(release: ToyRelease) -> None:
    whole = release.statement("int8")
    refused = 0
    for path in list(spots(whole)):
        for value in (None, [], {}, "", -1, "../x", ["x"], {"x": "y"}):
            broken = copy.deepcopy(whole)
            place = broken
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value
            try:
                read(broken, Path("x.json"))
            except VerificationError as error:
                refused += 1
                assert "x.json" in error.message
    assert refused > 500


@pytest.mark.parametrize(
    "name",
    [
        "../x.tflite",
        "/x.tflite",
        "",
        "a/b.tflite",
        "A.tflite",
        ".x.tflite",
        "x.tflite\n",
        "x" * 207,
    ],
)
def test_names_become_no_paths(release: ToyRelease, name: str) -> None:
    statement = release.statement("int8")
    statement["subject"][0]["name"] = name
    with pytest.raises(VerificationError):
        read(statement, Path("x.json"))
    statement = release.statement("int8")
    statement["predicate"]["buildDefinition"]["externalParameters"]["model"] = name
    with pytest.raises(VerificationError):
        read(statement, Path("x.json"))


def test_a_plan_in_an_image_that_is_no_material(release: ToyRelease) -> None:
    statement = release.statement("int8")
    statement["predicate"]["buildDefinition"]["resolvedDependencies"][0]["digest"]["sha256"] = (
        "b" * 64
    )
    with pytest.raises(VerificationError, match="not among its materials"):
        read(statement, Path("x.json"))


# --- targets ---------------------------------------------------------------------------------


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


# --- merging ---------------------------------------------------------------------------------


def test_what_is_the_same_is_made_once(release: ToyRelease) -> None:
    release.write()
    (group,) = merge(release.read())
    assert [step.id for step in group.plan.steps] == [
        "export", "convert-float32", "convert-int8", "annotate-float32", "annotate-int8",
    ]  # fmt: skip
    assert group.plan.artefacts == {
        "toy_float32.tflite": "annotate-float32",
        "toy_int8.tflite": "annotate-int8",
    }


def test_what_is_not_the_same_runs_apart(release: ToyRelease, tmp_path: Path) -> None:
    release.write()
    one, other = release.read()
    assert len(merge([one, replace(other, limits=Limits(memory=1 << 30))])) == 2
    assert len(merge([one, replace(other, source="f" * 64)])) == 2
    plain = ToyRelease(tmp_path, params={"exact_batch_norm": False})
    plain.write()
    assert len(merge([one, plain.read()[1]])) == 2, "two different steps, both called export"


# --- code ------------------------------------------------------------------------------------


def test_another_source_archive(release: ToyRelease, machine: Machine) -> None:
    release.write()
    with (release.folder / "source.tar").open("ab") as file:
        file.write(bytes(512))
    with pytest.raises(VerificationError, match="is not the source archive"):
        machine.run(release)
    assert not machine.door.calls


def test_an_edited_stage_in_an_archive_that_the_statement_names(
    release: ToyRelease, machine: Machine
) -> None:
    """Who can sign statements, but says another digest of the code than the archive has."""
    (release.project.stages / "__main__.py").write_text("print('something else')\n")
    release.source = release.archive()
    release.write()
    with pytest.raises(VerificationError, match="docker/stages differs"):
        machine.run(release)
    assert not machine.door.calls


@pytest.mark.parametrize("name", ["odapi/Dockerfile", "images.lock"])
def test_an_edited_definition_in_the_archive(
    release: ToyRelease, machine: Machine, name: str
) -> None:
    honest = release.statement("int8")["predicate"]["buildDefinition"]["resolvedDependencies"]
    path = release.project.docker / name
    path.write_text(
        path.read_text()
        .replace(SEALED.identity, f"sha256:{'b' * 64}")
        .replace("scratch", "scratch AS x")
    )
    release.source = release.archive()
    locks = [item for item in honest if item["name"].startswith("lock/")]

    def edit(statement: dict[str, Any]) -> None:
        materials = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
        materials[:] = [item for item in materials if not item["name"].startswith("lock/")] + locks

    release.edit = edit
    release.write()
    with pytest.raises(VerificationError, match=name):
        machine.run(release)
    assert not machine.door.calls


def test_the_archive_out_of_the_store_or_named(release: ToyRelease, machine: Machine) -> None:
    release.write()
    elsewhere = release.root / "elsewhere.tar"
    (release.folder / "source.tar").rename(elsewhere)
    assert set(outcomes(machine.run(release, source=elsewhere)).values()) == {"identical"}
    assert set(outcomes(machine.run(release)).values()) == {"cannot be rebuilt"}
    machine.store.add_file(elsewhere)
    assert set(outcomes(machine.run(release)).values()) == {"identical"}


def test_a_checkout_only_if_it_is_exactly_the_same(
    release: ToyRelease, machine: Machine, tmp_path: Path
) -> None:
    release.write()
    (release.folder / "source.tar").unlink()
    same = make_project(tmp_path / "same")
    assert set(outcomes(machine.run(release, checkout=same)).values()) == {"identical"}
    assert any("is used instead" in note for note in machine.notes())
    other = make_project(tmp_path / "other")
    (other.stages / "__main__.py").write_text("print('something else')\n")
    verdict = machine.run(release, checkout=other)["toy_int8.tflite"]
    assert verdict.outcome == "cannot be rebuilt"
    assert [thing.name for thing in verdict.missing] == ["source.tar"]
    assert verdict.missing[0].sha256 == sha256_bytes(release.source)


# --- inputs ----------------------------------------------------------------------------------


def looking(store: Store, scratch: Path, *folders: Path, **options: Any) -> Inputs:
    return Inputs(store, folders, options.pop("checkout", None), scratch, lambda *_, **__: None,
                  **options)  # fmt: skip


def test_missing_inputs_are_listed_with_where_they_could_come_from(
    release: ToyRelease, machine: Machine
) -> None:
    release.write()
    machine.store.discard(sha256_bytes(IMAGE))
    found = machine.run(release)
    assert outcomes(found) == {
        "toy_float32.tflite": "identical",
        "toy_int8.tflite": "cannot be rebuilt",
    }
    (missing,) = found["toy_int8.tflite"].missing
    assert missing.name == "input convert-int8/images/cat.png"
    assert missing.sha256 == sha256_bytes(IMAGE)
    assert missing.uri == f"{REPOSITORY}@{COMMIT}"
    assert "cat.png" in "\n".join(found["toy_int8.tflite"].lines())


def test_a_damaged_content_of_the_store_is_not_used(
    release: ToyRelease, machine: Machine, tmp_path: Path
) -> None:
    release.write()
    path = machine.store.path(sha256_bytes(WEIGHTS))
    path.chmod(0o644)
    path.write_bytes(b"WEIGHTS")
    assert set(outcomes(machine.run(release)).values()) == {"cannot be rebuilt"}
    assert any("damaged" in note for note in machine.notes())
    folder = emptied(tmp_path / "mine" / "deep")
    (folder / "any-name").write_bytes(WEIGHTS)
    assert set(outcomes(machine.run(release, folders=[folder.parent])).values()) == {"identical"}


def test_files_of_a_checkout_by_digest_and_said(
    release: ToyRelease, machine: Machine, tmp_path: Path
) -> None:
    release.write()
    machine.store.discard(sha256_bytes(WEIGHTS))
    other = make_project(tmp_path / "other")
    (other.models / "weights").write_bytes(WEIGHTS)
    (other.stages / "__main__.py").write_text("raise SystemExit('not from a checkout')\n")
    assert set(outcomes(machine.run(release, checkout=other)).values()) == {"identical"}
    assert any("files of this checkout" in note for note in machine.notes())
    assert machine.door.calls[0]["code"]["__main__.py"] == b"print()\n", "the release's own code"


def test_an_archive_by_its_digest(tmp_path: Path) -> None:
    small_archive(tmp_path / "toy.tar.gz")
    digest = sha256_file(tmp_path / "toy.tar.gz")
    wanted = {sha256_bytes(b"abc"): "checkpoint/ckpt-0.data"}
    store = Store(tmp_path / "store")
    with serving({"toy.tar.gz": (tmp_path / "toy.tar.gz").read_bytes()}) as site:
        by_mirror = Archive(site.url("gone.tar.gz"), digest, (site.url("toy.tar.gz"),))
        here = {"session": make_session()}  # one that may ask this machine
        found = looking(store, emptied(tmp_path / "1"), **here).find(wanted, by_mirror)
        assert [path.read_bytes() for path in found.values()] == [b"abc"]
        assert store.has(digest), "what was downloaded is there for the next time"
        none = looking(Store(tmp_path / "s2"), emptied(tmp_path / "2"), fetch=False)
        assert none.find(wanted, by_mirror) == {}
        other = looking(Store(tmp_path / "s3"), emptied(tmp_path / "3"), **here)
        assert other.find(wanted, Archive(site.url("toy.tar.gz"), "e" * 64)) == {}
    folder = emptied(tmp_path / "mine")
    (tmp_path / "toy.tar.gz").rename(folder / "renamed")
    local = looking(Store(tmp_path / "s4"), emptied(tmp_path / "4"), folder, fetch=False)
    assert set(local.find(wanted, by_mirror)) == set(wanted)


def test_no_such_folder_of_inputs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        looking(Store(tmp_path / "store"), tmp_path, tmp_path / "gone")


# --- making it again -------------------------------------------------------------------------


def test_identical(release: ToyRelease, machine: Machine) -> None:
    release.write()
    found = machine.run(release)
    assert set(outcomes(found).values()) == {"identical"}
    (call,) = machine.door.calls
    assert [stage["stage"] for stage in call["request"]["stages"]].count("export") == 1
    assert call["limits"] == Limits(memory=3 << 30, timeout=2 * 90.0), "for two artefacts"
    assert call["tree"]["export/checkpoint/ckpt-0.data"] == WEIGHTS
    told = [event for event in machine.events if event["event"] == "verdict"]
    assert [event["verdict"] for event in told] == ["identical", "identical"]


def test_results_of_the_users_store_are_never_taken(release: ToyRelease, machine: Machine) -> None:
    """Else a store that holds what was released would always prove it."""
    release.write()
    for step in release.plan.steps:
        blob = machine.store.add_bytes(made("int8"))
        path = machine.store.path(blob)
        machine.store.put_result(
            StageResult(step.key, step.stage, {"model.tflite": Blob(blob, path.stat().st_size)}, {})
        )
    machine.run(release)
    assert len(machine.door.calls[0]["request"]["stages"]) == 5


def other_file(container: Container) -> Outcome | None:
    """Something else comes out, from the export on."""
    for stage in container.request["stages"]:
        data = made("another")
        files = {"model.tflite": data, "saved_model/saved_model.pb": b"another graph"}
        container.finish(stage["id"], files, num_classes=1)
    return None


def test_another_file_is_explained_and_kept(
    release: ToyRelease, machine: Machine, tmp_path: Path
) -> None:
    release.write()
    machine.play = other_file
    verdict = machine.run(release, keep=tmp_path / "kept")["toy_int8.tflite"]
    assert verdict.outcome == "differs"
    assert verdict.rebuilt == sha256_bytes(made("another"))
    assert verdict.difference is not None and not verdict.difference.identical
    assert verdict.first == "export"
    assert [cause.kind for cause in verdict.causes] == ["unknown"]
    assert verdict.kept == tmp_path / "kept" / "toy" / "toy_int8.tflite"
    assert verdict.kept.read_bytes() == made("another")
    assert verdict.difference.verdict in "\n".join(verdict.lines())
    json.dumps(verdict.as_json())
    machine.run(release, keep=tmp_path / "kept")  # there is one already


def test_a_statement_about_another_file(release: ToyRelease, machine: Machine) -> None:
    release.edit = lambda s: s["subject"][0]["digest"].update(sha256=sha256_bytes(b"other"))
    release.write()
    verdict = machine.run(release)["toy_int8.tflite"]
    assert verdict.outcome == "differs"
    assert [cause.kind for cause in verdict.causes] == ["statement"]
    assert verdict.difference is None
    assert any("not the file that its provenance is about" in note for note in machine.notes())


def test_suspects(release: ToyRelease, tmp_path: Path) -> None:
    item = read(release.statement("int8"), Path("x"))
    assert [c.kind for c in suspects(item, item.machine, item.cpu)] == ["unknown"]
    (cause,) = suspects(item, item.machine, "Another 9000")
    assert cause.kind == "cpu" and "Another 9000" in cause.text and item.cpu in cause.text
    (cause,) = suspects(item, item.machine, "Another 9000", contradicted=True)
    assert cause.kind == "statement"
    plain = ToyRelease(tmp_path, params={"exact_batch_norm": False})
    seed = read(plain.statement("int8"), Path("x"))
    (cause,) = suspects(seed, seed.machine, seed.cpu)
    assert cause.kind == "cpu" and "seed profile" in cause.text


def test_a_failing_model_does_not_stop_the_others(tmp_path: Path, machine: Machine) -> None:
    one, other = ToyRelease(tmp_path), ToyRelease(tmp_path, model="toy2")
    one.write()
    other.write()

    def falter(container: Container) -> Outcome | None:
        first = container.request["stages"][0]["id"]
        if len(machine.door.calls) == 1:
            container.event("failed", first, kind="checkpoint", message="No.", remedy="None.")
            return Outcome(1, False, False, "a log")
        return play(container)

    machine.play = falter
    verdicts = machine.reproducer().run(one.read())
    assert [v.outcome for v in verdicts] == ["cannot be rebuilt"] * 2 + ["identical"] * 2
    assert [c.kind for c in verdicts[0].causes] == ["stage"]
    assert "No." in verdicts[0].causes[0].text


def test_the_log_of_a_failed_stage_stays(release: ToyRelease, machine: Machine) -> None:
    release.write()
    machine.play = lambda container: Outcome(1, False, False, "what the stage said")
    verdict = machine.run(release)["toy_int8.tflite"]
    log = machine.store.root / "logs" / "reproduce-toy.log"
    assert log.read_text() == "what the stage said"
    assert str(log) in verdict.causes[0].text


def test_a_slower_machine(release: ToyRelease, machine: Machine) -> None:
    release.write()
    machine.play = lambda container: Outcome(137, False, True, "")
    verdict = machine.run(release)["toy_int8.tflite"]
    assert "not finished after 180 s" in verdict.causes[0].text
    assert "recipe" not in verdict.causes[0].text


def test_an_image_that_comes_out_otherwise(release: ToyRelease, machine: Machine) -> None:
    release.write()
    reproducer = machine.reproducer()

    def image(docker: Path, item: Recorded) -> str:
        raise ImageMismatchError("Image 'odapi' is not the locked one: bin/sh differs.", "Report.")

    reproducer._image = image  # type: ignore[method-assign]
    verdicts = reproducer.run(release.read())
    assert {v.outcome for v in verdicts} == {"cannot be rebuilt"}
    assert verdicts[0].causes[0].kind == "image"
    assert "bin/sh differs" in verdicts[0].causes[0].text
    assert verdicts[0].missing[0].name == "image odapi"
    assert not machine.door.calls, "nothing runs in another image than the recorded one"


@pytest.mark.parametrize(
    "record", [b"", b"[]", b"{}", b'{"stages": 1}', b'{"stages": {"export": 1}}']
)
def test_a_record_that_is_none(tmp_path: Path, machine: Machine, record: bytes) -> None:
    release = ToyRelease(tmp_path)
    release.record = lambda: record  # type: ignore[method-assign]
    release.write()
    machine.play = other_file
    verdict = machine.run(release)["toy_int8.tflite"]
    assert verdict.first == ""
    assert [cause.kind for cause in verdict.causes] == ["unknown"]


def test_without_an_engine_nothing_is_judged(release: ToyRelease, machine: Machine) -> None:
    release.write()
    reproducer = machine.reproducer()

    def image(docker: Path, item: Recorded) -> str:
        raise EngineUnavailableError("No container engine answers.", "Start one.")

    reproducer._image = image  # type: ignore[method-assign]
    with pytest.raises(EngineUnavailableError):
        reproducer.run(release.read())


def test_exit_codes(release: ToyRelease, machine: Machine) -> None:
    release.write()
    good = list(machine.run(release).values())
    _judge(good)
    differs = replace(good[0], outcome="differs")
    impossible = replace(good[1], outcome="cannot be rebuilt")
    with pytest.raises(CannotReproduceError, match="toy_int8") as caught:
        _judge([good[0], impossible])
    assert caught.value.exit_code == 43
    with pytest.raises(NotReproducedError, match="1 differs, 1 cannot be rebuilt") as caught_2:
        _judge([differs, impossible])
    assert caught_2.value.exit_code == 42


# --- the command -----------------------------------------------------------------------------


def invoked(release: ToyRelease, *words: str | Path) -> BaseException | None:
    """How the command ended that was told what to trust, in an empty store."""
    return (
        CliRunner()
        .invoke(
            reproduce, [str(word) for word in words], env={"KILN_STORE": str(release.root / "s")}
        )
        .exception
    )


@pytest.fixture
def public(release: ToyRelease) -> Path:
    path = release.root / "their.pub"
    path.write_bytes(release.key.public_pem)
    return path


def test_what_a_trust_file_asks_for(release: ToyRelease, public: Path) -> None:
    policy = release.root / "trust.toml"
    policy.write_text(f'schema = 1\n[[signer]]\nkey = "{public}"\n[require]\nclean_git = true\n')
    release.write()
    ended = invoked(release, release.folder, "--policy", policy)
    assert isinstance(ended, VerificationError)
    assert "not committed" in ended.message

    def commit(statement: dict[str, Any]) -> None:
        materials = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
        next(item for item in materials if item["name"] == "repository")["annotations"] = {
            "dirty": False
        }

    release.edit = commit
    release.write()
    ended = invoked(release, release.folder, "--policy", policy)
    assert isinstance(ended, CannotReproduceError), "it is trusted, and its inputs are missing"


def test_a_release_in_an_archive(release: ToyRelease, public: Path) -> None:
    dist = release.write()
    (dist / "SHA256SUMS").write_text("")
    packed = release.root / "release.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(dist, "release-1")
    ended = invoked(release, packed, "--key", public)
    assert isinstance(ended, CannotReproduceError)
    assert "2 cannot be rebuilt" in ended.message


def test_what_does_not_go_together(release: ToyRelease, public: Path) -> None:
    release.write()
    for words in (
        ("--key", public, "--unverified"),
        ("--source", release.root / "gone.tar", "--key", public),
        ("--inputs", release.root / "gone", "--key", public),
        ("--variant", "int9", "--key", public),
    ):
        assert isinstance(invoked(release, release.folder, *words), UsageError), words


def test_inputs_and_code_out_of_a_bundle(
    release: ToyRelease, public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the release's bundle brings is enough: only an engine is missing then."""
    dist = release.write()
    theirs = Machine(release.root / "theirs").store
    packed = release.root / "release-1.tar"
    with ExitStack() as stack:
        contents = Contents(release.project, theirs, lambda *_, **__: None, stack)
        for needs in needs_of(dist):
            contents.add_needs(needs)
        write(packed, contents.index(), contents.readers, lambda done, total: None)
    (release.folder / "source.tar").unlink()
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    words = (release.folder, "--key", public)
    assert isinstance(invoked(release, *words), CannotReproduceError)
    assert isinstance(invoked(release, *words, "--bundle", packed), EngineUnavailableError)
