"""A stranger's release: which addresses are asked for what it was made from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from local_server import Site, serving
from toy_project import small_archive
from toy_reproduce import ToyRelease, emptied

from kiln.core.digest import sha256_bytes, sha256_file
from kiln.core.store import Store
from kiln.reproduce.inputs import Inputs
from kiln.reproduce.recorded import Archive, read
from kiln.sources.http import is_public, make_session, public_session


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
