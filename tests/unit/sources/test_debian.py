from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_server import Site, serving

from kiln.core.errors import DigestMismatchError, RecipeError, SourceUnavailableError
from kiln.core.store import Store
from kiln.sources import debian
from kiln.sources.debian import DebPin, fetch_lock, mirrors, read_lock

SHA = "ab" * 32
LINE = f"zlib1g 1:1.2.11-2 amd64 {SHA} 91424 debian pool/main/z/zlib/zlib1g_1.2.11-2_amd64.deb"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# -- the lock -----------------------------------------------------------------------------------


def test_a_lock(tmp_path: Path) -> None:
    text = f"# a comment\n\n{LINE}  # and another\n" + (
        f"tzdata 2024a-0+deb11u1 all {SHA} 1 debian-security pool/updates/main/t/t_1_all.deb\n"
    )
    first, second = read_lock(write(tmp_path / "lock", text))
    assert first == DebPin(
        "zlib1g",
        "1:1.2.11-2",
        "amd64",
        SHA,
        91424,
        "debian",
        "pool/main/z/zlib/zlib1g_1.2.11-2_amd64.deb",
    )
    assert first.filename == "zlib1g_1.2.11-2_amd64.deb"
    assert second.archive == "debian-security"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("zlib1g 1", "2 fields instead of 7"),
        (LINE + " more", "8 fields"),
        (LINE.replace("amd64 ", "arm64 "), "'arm64'"),
        (LINE.replace(SHA, SHA[1:]), "is not a SHA-256"),
        (LINE.replace("91424", "0"), "is not a size"),
        (LINE.replace("91424", "-5"), "is not a size"),
        (LINE.replace(" debian ", " ubuntu "), "'ubuntu' is not one of"),
        (LINE.replace("pool/", "/pool/"), "is not the path"),
        (LINE.replace("pool/", "pool/../../"), "is not the path"),
        (LINE.replace(".deb", ".udeb.x"), "is not the path"),
        (LINE.replace("zlib1g ", "Zlib "), "is not a package name"),
        (f"{LINE}\n{LINE}", "zlib1g is pinned twice"),
    ],
)
def test_lines_a_lock_must_not_have(tmp_path: Path, line: str, why: str) -> None:
    path = write(tmp_path / "lock", f"{line}\n")
    with pytest.raises(RecipeError) as caught:
        read_lock(path)
    assert why in caught.value.message
    assert f"{path}, line {2 if 'twice' in why else 1}:" in caught.value.message


def test_a_lock_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="No such file"):
        read_lock(tmp_path / "none")


# -- the mirrors --------------------------------------------------------------------------------


def test_mirrors_from_apt(tmp_path: Path) -> None:
    write(
        tmp_path / "sources.list",
        """\
# deb http://commented.invalid/debian bookworm main
deb http://one.invalid/debian/ bookworm main contrib
deb [arch=amd64 signed-by=/k.gpg] https://two.invalid/debian bookworm main # why
deb-src http://source.invalid/debian bookworm main
deb http://one.invalid/debian bookworm-updates main
deb http://security.invalid/debian-security bookworm-security main
deb http://old.invalid/security bullseye/updates main
deb http://archive.invalid/ubuntu jammy main
deb cdrom:[Debian]/debian bookworm main
deb file:/media/debian bookworm main
deb
""",
    )
    write(tmp_path / "sources.list.d" / "x.list", "deb http://three.invalid/debian sid main\n")
    write(tmp_path / "sources.list.d" / "x.save", "deb http://saved.invalid/debian sid main\n")
    write(
        tmp_path / "sources.list.d" / "y.sources",
        """\
# a comment
Types: deb deb-src
URIs: http://four.invalid/debian
  https://five.invalid/debian/
Suites: bookworm
Components: main

Enabled: no
Types: deb
URIs: http://off.invalid/debian
Suites: bookworm

Types: deb-src
URIs: http://source.invalid/debian
Suites: bookworm

Types: deb
URIs: http://four.invalid/debian-security http://ports.invalid/ubuntu-ports
Suites: bookworm-security
""",
    )
    assert mirrors(apt=tmp_path, environ={}) == {
        "debian": [
            "http://one.invalid/debian",
            "https://two.invalid/debian",
            "file:///media/debian",
            "http://three.invalid/debian",
            "http://four.invalid/debian",
            "https://five.invalid/debian",
        ],
        "debian-security": [
            "http://security.invalid/debian-security",
            "http://old.invalid/security",
            "http://four.invalid/debian-security",
        ],
    }


def test_mirrors_without_anything(tmp_path: Path) -> None:
    assert mirrors(apt=tmp_path / "none", environ={}) == {"debian": [], "debian-security": []}
    (tmp_path / "sources.list").mkdir()  # unreadable
    write(tmp_path / "sources.list.d" / "z.sources", "\0\0 nonsense\n:::\n")
    assert mirrors(apt=tmp_path, environ={}) == {"debian": [], "debian-security": []}


def test_settings_come_first_and_the_snapshot_last(tmp_path: Path) -> None:
    write(tmp_path / "sources.list", "deb http://apt.invalid/debian bookworm main\n")
    settings = {
        "KILN_DEBIAN_MIRROR": "http://mine.invalid/debian/",
        "KILN_DEBIAN_SNAPSHOT": "http://snap.invalid/archive/debian/20260901T000000Z/",
    }
    assert mirrors(apt=tmp_path, environ=settings) == {
        "debian": [
            "http://mine.invalid/debian",
            "http://apt.invalid/debian",
            "http://snap.invalid/archive/debian/20260901T000000Z",
        ],
        "debian-security": [
            "http://mine.invalid/debian-security",
            "http://snap.invalid/archive/debian-security/20260901T000000Z",
        ],
    }
    settings["KILN_DEBIAN_SECURITY_MIRROR"] = "http://sec.invalid/updates"
    assert mirrors(apt=tmp_path, environ=settings)["debian-security"][0] == (
        "http://sec.invalid/updates"
    )


# -- fetching -----------------------------------------------------------------------------------


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as served:
        yield served


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


CONTENTS = {
    "debian/pool/main/l/libstdc/libstdc++6_10.2.1-6~deb_amd64.deb": b"one" * 100,
    "debian-security/pool/updates/main/o/ssl/openssl_1_amd64.deb": b"two" * 100,
}


def lock_of(tmp_path: Path, contents: dict[str, bytes] = CONTENTS) -> Path:
    lines = []
    for number, (path, data) in enumerate(contents.items()):
        archive, _, below = path.partition("/")
        digest = hashlib.sha256(data).hexdigest()
        lines.append(f"package{number} 1 amd64 {digest} {len(data)} {archive} {below}\n")
    return write(tmp_path / "packages.lock", "".join(lines))


def test_packages_from_their_archives(
    site: Site, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.files = dict(CONTENTS)
    monkeypatch.setattr(debian, "APT", tmp_path / "none")
    monkeypatch.setenv("KILN_DEBIAN_MIRROR", site.url("debian"))
    lock = lock_of(tmp_path)
    found = fetch_lock(lock, store)
    assert list(found) == ["libstdc++6_10.2.1-6~deb_amd64.deb", "openssl_1_amd64.deb"]
    assert [store.path(d).read_bytes() for d in found.values()] == list(CONTENTS.values())
    asked = len(site.asked)
    assert fetch_lock(lock, store, bases={}) == found  # at hand: no mirror is needed
    assert len(site.asked) == asked


def test_the_snapshot_helps_when_the_mirror_has_moved_on(
    site: Site, store: Store, tmp_path: Path
) -> None:
    dated = "archive/{}/20260901T000000Z"
    for path, data in CONTENTS.items():
        archive, _, below = path.partition("/")
        site.files[f"{dated.format(archive)}/{below}"] = data
    settings = {
        "KILN_DEBIAN_MIRROR": site.url("debian"),
        "KILN_DEBIAN_SNAPSHOT": site.url(dated.format("debian")),
    }
    bases = mirrors(apt=tmp_path / "none", environ=settings)
    assert len(fetch_lock(lock_of(tmp_path), store, bases=bases)) == 2
    assert len(site.asked) == 4


def test_a_package_no_mirror_has(site: Site, store: Store, tmp_path: Path) -> None:
    site.files = dict(list(CONTENTS.items())[:1])
    bases = {archive: [site.url(archive)] for archive in debian.ARCHIVES}
    with pytest.raises(SourceUnavailableError) as caught:
        fetch_lock(lock_of(tmp_path), store, bases=bases)
    assert "openssl_1_amd64.deb" in caught.value.message
    assert "HTTP 404" in caught.value.message
    assert "KILN_DEBIAN_MIRROR" in caught.value.remedy
    assert "KILN_DEBIAN_SNAPSHOT" in caught.value.remedy


def test_no_mirror_is_known(store: Store, tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailableError, match="No mirror of the debian archive") as caught:
        fetch_lock(lock_of(tmp_path), store, bases={})
    assert "KILN_DEBIAN_MIRROR" in caught.value.remedy


def test_a_package_with_other_bytes(site: Site, store: Store, tmp_path: Path) -> None:
    lock = lock_of(tmp_path)
    good, bad = CONTENTS
    site.files = {good: CONTENTS[good], bad: CONTENTS[bad][::-1]}
    bases = {archive: [site.url(archive)] for archive in debian.ARCHIVES}
    with pytest.raises(DigestMismatchError, match=r"openssl_1_amd64\.deb .*SHA-256"):
        # One after the other: a download stopped by another's failure keeps its beginning.
        fetch_lock(lock, store, jobs=1, bases=bases)
    assert list(store.downloads.iterdir()) == []
    digests = {data: hashlib.sha256(data).hexdigest() for data in site.files.values()}
    assert store.has(digests[CONTENTS[good]])
    assert not store.has(digests[CONTENTS[bad][::-1]])
