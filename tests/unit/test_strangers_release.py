"""What a stranger's release says decides nothing here: paths, addresses, limits, images."""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from local_server import Site, serving
from test_run import OK, Container
from toy_engine import ToyEngine, serve
from toy_project import SEALED, make_project, small_archive
from toy_reproduce import Machine, ToyRelease, emptied, made

from kiln.cli.reproduce import reproduce
from kiln.core.digest import sha256_bytes, sha256_file
from kiln.core.errors import (
    CannotReproduceError,
    ImageBuildError,
    ImageMismatchError,
    UsageError,
    VerificationError,
)
from kiln.core.project import Project
from kiln.core.store import Store
from kiln.images.builder import Images
from kiln.images.definition import recipe_digest
from kiln.images.lock import write_lock
from kiln.reproduce.images import RecordedImages
from kiln.reproduce.inputs import Inputs
from kiln.reproduce.recorded import Archive, read
from kiln.reproduce.targets import recorded_in
from kiln.running.engine import Engine
from kiln.running.limits import Limits, Outcome
from kiln.signing import dsse
from kiln.sources.http import is_public, make_session, public_session


@pytest.fixture
def release(tmp_path: Path) -> ToyRelease:
    return ToyRelease(tmp_path)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "machine")


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
    thread.join(20)
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


# --- addresses ---------------------------------------------------------------------------------


@dataclass
class Asked:
    """A release that names an archive, looked for on a machine that has nothing."""

    root: Path
    notes: list[str] = field(default_factory=list)

    def find(self, archive: Archive, **options: Any) -> bool:
        def tell(event: str, **fields: Any) -> None:
            self.notes.append(str(fields.get("message")))

        scratch = emptied(self.root / "scratch")
        looking = Inputs(Store(self.root / "store"), (), None, scratch, tell, **options)
        return bool(looking.find({sha256_bytes(b"abc"): "checkpoint/ckpt-0.data"}, archive))


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked(tmp_path / "asked")


@pytest.fixture
def packed_model(tmp_path: Path) -> Path:
    small_archive(tmp_path / "toy.tar.gz")
    return tmp_path / "toy.tar.gz"


def test_no_file_of_this_machine_is_read_because_a_statement_says_so(
    asked: Asked, packed_model: Path
) -> None:
    digest = sha256_file(packed_model)
    for url in (packed_model.as_uri(), str(packed_model), f"FILE://{packed_model}"):
        assert not asked.find(Archive(url, digest, (url,)))
        assert "not an http(s) address" in asked.notes[-1]
    for url in ("file:///dev/zero", "ftp://127.0.0.1/x", "data:,x", "http:", "http://a b/c", ""):
        assert not asked.find(Archive(url, digest))
    assert list((asked.root / "store" / "downloads").iterdir()) == []


def test_nor_are_the_mirrors_that_its_recipe_names(release: ToyRelease, packed_model: Path) -> None:
    statement = release.statement("int8")
    recipe = {"source": {"mirrors": [packed_model.as_uri(), "http://example.com/x"] * 20}}
    text = f"[source]\nmirrors = {json.dumps(recipe['source']['mirrors'])}\n".replace(",", ",\n")
    statement["predicate"]["buildDefinition"]["externalParameters"]["recipe"]["text"] = text
    archive = read(statement, Path("x.json")).archive
    assert archive is not None and len(archive.mirrors) == 16
    assert set(archive.addresses) == {"http://example.com/x"}
    for odd in ("[source]\nmirrors = 1", "source = 1", "[" * 9999, "x" * (1 << 20)):
        statement["predicate"]["buildDefinition"]["externalParameters"]["recipe"]["text"] = odd
        found = read(statement, Path("x.json")).archive
        assert found is not None and found.mirrors == ()


@pytest.fixture
def site(packed_model: Path) -> Iterator[Site]:
    with serving({"toy.tar.gz": packed_model.read_bytes()}) as found:
        yield found


def test_this_machine_s_own_servers_are_not_asked(
    asked: Asked, packed_model: Path, site: Site
) -> None:
    digest = sha256_file(packed_model)
    port = site.base.rpartition(":")[2]
    for host in ("127.0.0.1", "localhost", "127.1", "2130706433", "0.0.0.0", "[::1]",
                 "[::ffff:127.0.0.1]", "me@127.0.0.1"):  # fmt: skip
        assert not asked.find(Archive(f"http://{host}:{port}/toy.tar.gz", digest))
    assert site.asked == []
    assert asked.find(Archive(site.url("toy.tar.gz"), digest), session=make_session())


def test_nor_where_an_address_sends_on_to(asked: Asked, packed_model: Path, site: Site) -> None:
    other = site.base.replace("127.0.0.1", "127.0.0.2")
    site.locations = {
        "away": f"{other}/toy.tar.gz",
        "file": packed_model.as_uri(),
        "round": site.url("round"),
        "here": site.url("toy.tar.gz"),
    }
    digest = sha256_file(packed_model)

    def find(path: str) -> bool:
        allowed = ip_address("127.0.0.1")
        session = public_session(lambda address: address == allowed)
        return asked.find(Archive(site.url(path), digest), session=session)

    assert not find("away") and not find("file")
    assert [path for path, _ in site.asked] == ["away", "file"]
    assert find("here")


@pytest.mark.parametrize(
    "text",
    ["127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0", "::1",
     "fe80::1", "fc00::1", "::", "224.0.0.1", "255.255.255.255", "::ffff:10.0.0.1", "ff0e::1"],
)  # fmt: skip
def test_addresses_that_are_not_public(text: str) -> None:
    assert not is_public(ip_address(text))
    assert is_public(ip_address("93.184.216.34")) and is_public(ip_address("2606:4700::1111"))


def test_an_archive_without_end_is_not_taken(tmp_path: Path, site: Site) -> None:
    from kiln.core.errors import DigestMismatchError
    from kiln.sources.download import Download, fetch

    site.files["long"] = bytes(1 << 20)
    download = Download((site.url("long"),), None, "e" * 64, "long", most=100_000)
    with pytest.raises(DigestMismatchError, match="expected 100,000 bytes, got more"):
        fetch([download], Store(tmp_path / "store"))


# --- limits ------------------------------------------------------------------------------------


def limits_of(memory: Any, timeout: Any) -> Callable[[dict[str, Any]], None]:
    def edit(statement: dict[str, Any]) -> None:
        inside = statement["predicate"]["buildDefinition"]["internalParameters"]
        inside["limits"] = {"memory": memory, "timeout": timeout}

    return edit


@pytest.mark.parametrize(
    ("memory", "timeout"),
    [
        (float("nan"), 1), (1, float("nan")), (True, 1), (1, True), (0, 1), (1, 0), (-1, 1),
        (1, -1), (1.5, 1), (1e308, 1), ("1", 1), (1, "1"), (None, 1), (1, None), ([], 1), ({}, 1),
    ],
)  # fmt: skip
def test_limits_that_are_none(release: ToyRelease, memory: Any, timeout: Any) -> None:
    statement = release.statement("int8")
    limits_of(memory, timeout)(statement)
    with pytest.raises(VerificationError, match="limits"):
        read(statement, Path("x.json"))


@pytest.mark.parametrize(
    ("memory", "timeout"), [(1 << 60, 1e308), (10**400, 10**400), (9 << 30, 3601)]
)
def test_limits_are_this_machine_s(
    release: ToyRelease, machine: Machine, memory: int, timeout: float
) -> None:
    release.edit = limits_of(memory, timeout)
    release.write()
    machine.run(release)
    assert machine.door.calls[0]["limits"] == Limits()
    assert len(machine.notes()) == 2
    assert "at most (--memory)" in machine.notes()[0]
    assert "at most (--timeout)" in machine.notes()[1]


def test_inf_is_no_time_either(release: ToyRelease) -> None:
    """Canonical JSON has no word for it; a statement in plain JSON may."""
    statement = release.statement("int8")
    limits_of(1 << 30, float("inf"))(statement)
    assert read(statement, Path("x.json")).limits.timeout <= 1e9
    path = release.root / "statement.json"
    path.write_text(json.dumps(statement))
    assert "Infinity" in path.read_text()
    with pytest.raises(VerificationError, match="Infinity"):
        recorded_in(path, None)


def test_many_artefacts_have_no_more_time_than_one_container(
    tmp_path: Path, machine: Machine
) -> None:
    release = ToyRelease(tmp_path, variants=[f"v{number}" for number in range(30)])
    release.edit = limits_of(1 << 30, 3000)
    release.write()
    machine.run(release)
    (call,) = machine.door.calls
    assert call["limits"] == Limits(memory=1 << 30, timeout=3600.0)
    assert machine.notes() == [], "no recorded limit was above this machine's"


def test_a_person_may_give_more(release: ToyRelease, machine: Machine) -> None:
    release.edit = limits_of(1 << 40, 10_000)
    release.write()
    machine.run(release, most=Limits(memory=16 << 30, timeout=7200.0))
    assert machine.door.calls[0]["limits"] == Limits(memory=16 << 30, timeout=7200.0)


@pytest.mark.parametrize(
    "words", [("--memory", "1e308"), ("--memory", "9" * 400 + "GiB"), ("--timeout", "soon")]
)
def test_options_that_are_no_limits(release: ToyRelease, words: tuple[str, str]) -> None:
    release.write()
    ended = CliRunner().invoke(reproduce, [str(release.folder), "--unverified", *words])
    assert isinstance(ended.exception, UsageError)


def test_out_of_memory_says_which_option_helps(release: ToyRelease, machine: Machine) -> None:
    release.write()
    machine.play = lambda container: Outcome(137, True, False, "a log")
    verdict = machine.run(release)["toy_int8.tflite"]
    assert "--memory" in verdict.causes[0].text and "recipe" not in verdict.causes[0].text


# --- images ------------------------------------------------------------------------------------


@pytest.fixture
def toy_engine() -> Iterator[ToyEngine]:
    with serve() as found:
        yield found


@dataclass
class Wanting:
    """A machine whose engine holds nothing, and a release's ``docker/``."""

    engine: ToyEngine
    theirs: Project
    root: Path
    notes: list[str] = field(default_factory=list)

    def images(self, **options: Any) -> RecordedImages:
        def tell(event: str, **fields: Any) -> None:
            if event == "note":
                self.notes.append(fields["message"])

        found = Engine.find()
        return RecordedImages(lambda: found, Store(self.root / "store"), tell, **options)

    def bring(self, **options: Any) -> str:
        return self.images(**options).bring(self.theirs.docker, "odapi").tag

    def built(self) -> bool:
        return any(path.endswith("/build") for path in self.engine.posted)


@pytest.fixture
def wanting(toy_engine: ToyEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wanting:
    monkeypatch.setenv("DOCKER_HOST", toy_engine.address)
    monkeypatch.delenv("KILN_IMAGE_REGISTRY", raising=False)
    return Wanting(toy_engine, make_project(tmp_path / "theirs"), tmp_path)


def relocked(project: Project) -> None:
    """Locked anew after an edit, to the same identity."""
    write_lock(project.docker, "odapi", SEALED, recipe_digest(project.docker, "odapi"))


def test_a_stranger_s_dockerfile_is_not_built(wanting: Wanting, tmp_path: Path) -> None:
    with pytest.raises(CannotReproduceError, match="not in the engine"):
        wanting.bring()
    other = make_project(tmp_path / "checkout")
    (other.docker / "install.py").write_text("print('another version')\n")
    relocked(other)
    with pytest.raises(CannotReproduceError, match="this checkout's definitions are not those"):
        wanting.bring(checkout=other)
    assert wanting.engine.posted == []


def test_an_image_that_the_engine_holds_is_taken(wanting: Wanting) -> None:
    images = Images(wanting.theirs.docker, Engine.find, Store(wanting.root / "s"))
    tag = f"tflite-kiln/odapi:{SEALED.identity[7:23]}"
    wanting.engine.images[tag] = {"Id": "x", "RootFS": {"Layers": [SEALED.layer]}}
    assert wanting.bring() == tag == images.ensure("odapi").tag
    wanting.engine.images[tag] = {"Id": "x", "RootFS": {"Layers": ["sha256:" + "c" * 64]}}
    with pytest.raises(CannotReproduceError):
        wanting.bring()


def test_this_checkout_s_own_definitions_are_built(wanting: Wanting, tmp_path: Path) -> None:
    """The same recipe, locked to the same identity. (The toy builds nothing, but it was asked.)"""
    checkout = make_project(tmp_path / "checkout")
    with pytest.raises(Exception, match="not in this toy"):
        wanting.bring(checkout=checkout)
    assert wanting.built()
    assert any("this checkout's definitions" in note for note in wanting.notes)


@pytest.mark.parametrize("what", ["identity", "recipe"])
def test_a_lie_about_our_recipe_builds_nothing(wanting: Wanting, tmp_path: Path, what: str) -> None:
    """Their lock names our recipe for another identity, or our identity for another recipe."""
    checkout = make_project(tmp_path / "checkout")
    if what == "identity":
        config = SEALED.config.replace(b"}", b',"evil":1}', 1)
        other = replace(SEALED, config=config, identity=f"sha256:{sha256_bytes(config)}")
        write_lock(wanting.theirs.docker, "odapi", other,
                   recipe_digest(checkout.docker, "odapi"))  # fmt: skip
    else:
        write_lock(wanting.theirs.docker, "odapi", SEALED, "e" * 64)
    with pytest.raises(CannotReproduceError):
        wanting.bring(checkout=checkout)
    assert wanting.engine.posted == []


DOCKERFILE = 'FROM scratch\nARG OWNER=\nLABEL org.tflite-kiln.owner="${OWNER}"\nCOPY . /build/\n'


def test_only_a_person_s_word_builds_it(wanting: Wanting) -> None:
    (wanting.theirs.docker / "odapi" / "Dockerfile").write_text(DOCKERFILE)
    relocked(wanting.theirs)
    with pytest.raises(CannotReproduceError):
        wanting.bring()
    assert not wanting.built()
    with pytest.raises(Exception, match="not in this toy"):
        wanting.bring(strangers=True)
    assert wanting.built()
    assert any("as you asked" in note for note in wanting.notes)


@pytest.mark.parametrize(
    "line", ["ADD http://127.0.0.1:1/x /x", "RUN id", 'RUN ["/bin/sh", "-c", "id"]', "USER 0"]
)
def test_and_not_even_that_where_it_does_what_ours_do_not(wanting: Wanting, line: str) -> None:
    (wanting.theirs.docker / "odapi" / "Dockerfile").write_text(f"{DOCKERFILE}{line}\n")
    relocked(wanting.theirs)
    with pytest.raises(ImageBuildError, match="Dockerfile of the image 'odapi' has an instruction"):
        wanting.bring(strangers=True)
    assert wanting.engine.posted == []


def test_files_that_no_image_of_ours_is_built_from(wanting: Wanting) -> None:
    docker = wanting.theirs.docker
    (docker / "odapi" / "Dockerfile").write_text(DOCKERFILE)
    (docker / "install.py").write_bytes(bytes(2 << 20))
    relocked(wanting.theirs)
    with pytest.raises(ImageBuildError, match=r"install\.py of the image 'odapi' is larger"):
        wanting.bring(strangers=True)
    (docker / "install.py").unlink()
    with pytest.raises(ImageBuildError, match=r"lacks install\.py"):
        wanting.bring(strangers=True)
    (docker / "install.py").symlink_to("/etc/passwd")
    with pytest.raises(ImageBuildError, match="symbolic link"):
        wanting.bring(strangers=True)
    assert wanting.engine.posted == []


def test_definitions_that_are_not_what_was_locked(wanting: Wanting) -> None:
    (wanting.theirs.docker / "odapi" / "Dockerfile").write_text(DOCKERFILE)
    with pytest.raises(ImageMismatchError, match="have changed"):
        wanting.bring(strangers=True)
    assert wanting.engine.posted == []


def test_what_would_help_is_said(release: ToyRelease, machine: Machine, wanting: Wanting) -> None:
    release.write()
    reproducer = machine.reproducer()
    images = wanting.images()
    reproducer._image = lambda docker, item: images.bring(docker, item.image).tag  # type: ignore[method-assign]
    (verdict, _) = reproducer.run(release.read())
    assert verdict.outcome == "cannot be rebuilt"
    said = "\n".join(verdict.lines())
    for way in ("--image", "--bundle", "KILN_IMAGE_REGISTRY", "a checkout of git+https://code",
                "--build-strangers-image"):  # fmt: skip
        assert way in said
    assert not machine.door.calls


def test_no_release_s_definitions_are_built_for_a_bundle(wanting: Wanting) -> None:
    engine = Engine.find()
    images = Images(
        wanting.theirs.docker, lambda: engine, Store(wanting.root / "s"), may_build=False
    )
    with pytest.raises(ImageMismatchError, match="not built from them"):
        images.ensure("odapi")
    assert wanting.engine.posted == []


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
