"""A stranger's release: its archives, plans and texts are refused before anything runs."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from patience import PATIENCE
from toy_container import OK, Container
from toy_project import SEALED
from toy_reproduce import Machine, ToyRelease, made

from kiln.cli.reproduce import reproduce
from kiln.core.digest import sha256_file
from kiln.core.errors import CannotReproduceError, UsageError, VerificationError
from kiln.reproduce.recorded import read
from kiln.reproduce.targets import recorded_in
from kiln.running.limits import Outcome
from kiln.signing import dsse


def materials(statement: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    return found


def refused(release: ToyRelease, machine: Machine) -> str:
    """What the release is refused with; nothing of it has run."""
    release.write()
    with pytest.raises(VerificationError) as caught:
        machine.run(release)
    assert not machine.door.calls
    return caught.value.message


# --- paths -------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["absolute", "climbing"])
def test_a_lock_outside_of_the_archive_is_not_opened(
    release: ToyRelease, machine: Machine, tmp_path: Path, way: str
) -> None:
    """Whoever can have any file compared with any digest learns what is in it."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"of this machine")
    name = str(outside) if way == "absolute" else f"docker/{'../' * 20}{outside}"
    digest = {"sha256": sha256_file(outside)}
    release.edit = lambda s: materials(s).append({"name": f"lock/{name}", "digest": digest})
    refused(release, machine)


def packed(*entries: tuple[str | tarfile.TarInfo, bytes]) -> bytes:
    """A tar of just these."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for entry, data in entries:
            info = tarfile.TarInfo(entry) if isinstance(entry, str) else entry
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def with_entries(source: bytes, *entries: tuple[str | tarfile.TarInfo, bytes]) -> bytes:
    """A source archive with more in it, or with other contents of what it has."""
    names = {entry for entry, _ in entries}
    with tarfile.open(fileobj=io.BytesIO(source)) as tar:
        kept = [
            (info.name, data.read())
            for info in tar
            if info.name not in names and (data := tar.extractfile(info)) is not None
        ]
    return packed(*kept, *entries)


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([(special("docker/x", tarfile.SYMTYPE, "/etc/passwd"), b"")], "not a plain file"),
        ([(special("docker/x", tarfile.LNKTYPE, "docker/install.py"), b"")], "not a plain file"),
        ([(special("docker/x", tarfile.CHRTYPE), b"")], "not a plain file"),
        ([(special("docker/x", tarfile.FIFOTYPE), b"")], "not a plain file"),
        ([("/etc/x", b"")], "impossible name"),
        ([("docker/../../x", b"")], "impossible name"),
        ([("docker/" + "d/" * 1500 + "x", b"")], "impossible name"),
        ([("docker/" + "x" * 300, b"")], "impossible name"),
        ([("docker/" + "x/" * 16 + "y", b"")], "impossible name"),
        ([("docker/install.py/x", b"")], "as a file and as a folder"),
        ([("docker/images.toml", b"[odapi]\nfiles = ['../../dev/zero']")], "images.toml that has"),
        ([("docker/images.toml", b"[odapi]\nfiles = " + b"[" * 2000)], "images.toml that nests"),
        ([("docker/images.toml", b"x" + b".x" * 2000 + b"=1")], "images.toml that has a"),
        ([("docker/images.lock", b"[odapi]\nsize = inf")], "images.lock that holds"),
        ([("docker/images.lock", b"odapi = 1")], "images.lock that has"),
        ([("docker/images.lock", b"\xff")], "images.lock that is not valid TOML"),
    ],
)
def test_odd_archives_are_refused_by_name(
    tmp_path: Path, machine: Machine, entries: list[tuple[Any, bytes]], words: str
) -> None:
    honest = ToyRelease(tmp_path)
    release = ToyRelease(tmp_path, source=with_entries(honest.source, *entries))
    assert words in refused(release, machine)


def test_a_lock_that_gives_another_layer_to_an_identity(
    tmp_path: Path, machine: Machine, release: ToyRelease
) -> None:
    """An identity is only as good as the configuration that it is the digest of."""
    path = release.project.docker / "images.lock"
    path.write_text(
        path.read_text().replace(f'layer = "{SEALED.layer}"', f'layer = "sha256:{"c" * 64}"')
    )
    release.source = release.archive()
    assert "docker/images.lock" in refused(release, machine)


@pytest.mark.parametrize("name", ["source.tar", "provenance", "conversion.json", "kiln.pub"])
@pytest.mark.parametrize("kind", ["fifo", "link", "huge"])
def test_nothing_in_the_folder_is_waited_for_or_read_without_end(
    release: ToyRelease, machine: Machine, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    release.write()
    path = release.provenance("int8") if name == "provenance" else release.folder / name
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)
    public = release.root / "their.pub"
    public.write_bytes(release.key.public_pem)
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    words = [str(release.folder), "--key", str(public), "--variant", "int8"]
    ended: list[BaseException | None] = []

    def invoke() -> None:
        environment = {"KILN_STORE": str(release.root / "s"), "KILN_PROJECT": str(release.root)}
        ended.append(CliRunner().invoke(reproduce, words, env=environment).exception)

    thread = threading.Thread(target=invoke, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert ended, "it waits for ever"
    if name in ("source.tar", "provenance"):
        assert isinstance(ended[0], VerificationError | UsageError), ended
    else:
        assert isinstance(ended[0], CannotReproduceError), "as far as it would come without"


# --- plans -------------------------------------------------------------------------------------


def plan_of(statement: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = statement["predicate"]["buildDefinition"]["internalParameters"]["plan"]
    return found


@pytest.mark.parametrize(
    "files",
    [
        {"a": "0" * 64, "a/b": "1" * 64},
        {"a/b": "0" * 64, "a/b/c/d": "1" * 64},
        {"x" * 256: "0" * 64},
        {"x/" * 32 + "y": "0" * 64},
        {"\ud800": "0" * 64},
        {str(number): "0" * 64 for number in range(100_001)},
    ],
    ids=["file and folder", "the same deeper", "long", "deep", "no text", "many"],
)
def test_inputs_that_no_folder_can_hold(release: ToyRelease, files: dict[str, str]) -> None:
    statement = release.statement("int8")
    plan_of(statement)["steps"][0]["inputs"]["checkpoint"] = {"files": files}
    with pytest.raises(VerificationError, match=r"plan (has|is damaged)"):
        read(statement, Path("x.json"))


@pytest.mark.parametrize("name", ["request.json", "..", "a/b", "x" * 101, "", "a\nb"])
def test_ids_are_folders_of_their_own(release: ToyRelease, name: str) -> None:
    statement = release.statement("int8")
    plan_of(statement)["steps"][0]["id"] = name
    with pytest.raises(VerificationError, match="impossible name"):
        read(statement, Path("x.json"))


def test_a_plan_of_very_many_steps(release: ToyRelease) -> None:
    statement = release.statement("int8")
    plan = plan_of(statement)
    plan["steps"] = plan["steps"] * 10_000
    with pytest.raises(VerificationError, match="at most 256 steps"):
        read(statement, Path("x.json"))


def test_what_is_said_is_shown_as_one_plain_line(release: ToyRelease) -> None:
    statement = release.statement("int8")
    evil = "\x1b]0;title\x07\u202eEvil\n" + "x" * 10_000
    inside = statement["predicate"]["buildDefinition"]["internalParameters"]
    inside["host"] = {"machine": evil, "cpu": evil}
    for item in materials(statement):
        if "uri" in item:
            item["uri"] = evil
    item = read(statement, Path("x.json"))
    for text in (item.cpu, item.machine, item.origin, item.came_from("a/checkpoint")):
        assert text.isprintable() and 0 < len(text) < 500
    for value in (evil, "../x", "A", 1, None, "x" * 101):
        outside = statement["predicate"]["buildDefinition"]["externalParameters"]
        outside["variant"] = value
        with pytest.raises(VerificationError) as caught:
            read(statement, Path("x.json"))
        assert caught.value.message.isprintable() and len(caught.value.message) < 500


# --- what is kept ------------------------------------------------------------------------------


def test_what_is_kept_stays_below_the_folder(
    release: ToyRelease, machine: Machine, tmp_path: Path
) -> None:
    release.write()

    def other(container: Container) -> Outcome | None:
        for stage in container.request["stages"]:
            container.finish(stage["id"], {"model.tflite": made("x"), "saved_model/x": b""},
                             num_classes=1)  # fmt: skip
        return OK

    machine.play = other
    keep = tmp_path / "kept"
    machine.run(release, keep=keep)
    files = [path for path in keep.rglob("*") if path.is_file()]
    assert {path.relative_to(keep).as_posix() for path in files} == {
        "toy/toy_float32.tflite",
        "toy/toy_int8.tflite",
    }
    assert all(stat.S_ISREG(path.lstat().st_mode) for path in files)
    (keep / "toy" / "toy_int8.tflite").unlink()
    (keep / "toy" / "toy_int8.tflite").mkdir()
    with pytest.raises(UsageError, match="cannot be written"):
        machine.run(release, keep=keep)


def test_statements_by_the_thousand(release: ToyRelease) -> None:
    release.write()
    data = release.provenance("int8").read_bytes()
    for number in range(2_000):
        (release.provenance("int8").parent / f"{number}.provenance.sigstore.json").write_bytes(data)
    with pytest.raises(VerificationError, match="2,002 statements"):
        recorded_in(release.folder, None)
    assert dsse.peek_unverified(data)
