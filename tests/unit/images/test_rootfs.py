"""Debian packages made here with ar and tar, merged into a root file system."""

from __future__ import annotations

import hashlib
import io
import lzma
import random
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_packages import ar, tar_xz

from kiln.core.errors import ArchiveError
from kiln.images.rootfs import build_rootfs

EPOCH = 1735689600
PASSWD = b"root:*:0:0:root:/root:/bin/bash\nnobody:*:65534:65534::/nonexistent:/bin/sh\n"


def deb(name: str, payload: list[tuple[str, object]], version: str = "1.0") -> bytes:
    control = f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nDescription: toy\n"
    sums = "".join(
        f"{hashlib.md5(data).hexdigest()}  {path.removeprefix('./')}\n"
        for path, data in payload
        if isinstance(data, bytes)
    )
    return ar(
        [
            ("debian-binary", b"2.0\n"),
            (
                "control.tar.xz",
                tar_xz([("./control", control.encode()), ("./md5sums", sums.encode())]),
            ),
            ("data.tar.xz", tar_xz(payload)),
        ]
    )


BASE_PASSWD = (
    "base-passwd",
    [
        ("./", None),
        ("./usr/", None),
        ("./usr/share/", None),
        ("./usr/share/base-passwd/", None),
        ("./usr/share/base-passwd/passwd.master", PASSWD),
        ("./usr/share/base-passwd/group.master", b"root:*:0:\n"),
    ],
)
TOOL = (
    "tool",
    [
        ("./", None),
        ("./usr/", None),
        ("./usr/bin/", None),
        ("./usr/bin/tool", b"\x7fELF tool"),
        ("./usr/bin/alias", "tool"),
        ("./usr/bin/a-twin", ("link", "./usr/bin/tool")),
        ("./usr/share/", None),
        ("./usr/share/doc/", None),
        ("./usr/share/doc/tool/", None),
        ("./usr/share/doc/tool/copyright", b"free"),
        ("./usr/share/doc/tool/changelog.gz", b"much"),
        ("./usr/share/man/man1/tool.1.gz", b"much more"),
        ("./usr/share/locale/de/LC_MESSAGES/tool.mo", b"Werkzeug"),
        ("./usr/lib/python3/dist-packages/__pycache__/x.pyc", b"dated"),
    ],
)
OTHER = ("other", [("./usr/", None), ("./usr/lib/", None), ("./usr/lib/other.so", b"other")])


def folder_of(tmp_path: Path, *packages: tuple[str, list[tuple[str, object]]]) -> list[Path]:
    tmp_path.mkdir(exist_ok=True)
    paths = []
    for name, payload in packages:
        path = tmp_path / f"{name}_1.0_amd64.deb"
        path.write_bytes(deb(name, payload))
        paths.append(path)
    return paths


def rootfs(debs: list[Path]) -> bytes:
    out = io.BytesIO()
    build_rootfs(debs, out, epoch=EPOCH)
    return out.getvalue()


def entries(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {info.name: info for info in tar}


def content(data: bytes, path: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = tar.extractfile(path)
        assert found is not None
        return found.read()


def test_payloads_are_merged(tmp_path: Path) -> None:
    data = rootfs(folder_of(tmp_path, BASE_PASSWD, TOOL, OTHER))
    found = entries(data)
    assert content(data, "usr/bin/tool") == b"\x7fELF tool"
    assert found["usr/bin/tool"].mode == 0o755
    assert found["usr/bin/alias"].linkname == "tool"
    assert found["usr/lib/other.so"].isreg()
    # Licences stay, other documentation and time-stamped bytecode go.
    assert "usr/share/doc/tool/copyright" in found
    assert found["usr/share/doc/tool"].isdir()
    assert not [p for p in found if "changelog" in p or "man1" in p or "locale/" in p or "pyc" in p]
    assert {info.mtime for info in found.values()} == {EPOCH}
    assert {(info.uname, info.gname) for info in found.values()} == {("", "")}


def test_hard_links_come_after_what_they_name(tmp_path: Path) -> None:
    data = rootfs(folder_of(tmp_path, BASE_PASSWD, TOOL))
    order = list(entries(data))
    link = entries(data)["usr/bin/a-twin"]
    assert link.islnk() and link.linkname == "usr/bin/tool"
    assert order.index("usr/bin/tool") < order.index("usr/bin/a-twin")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.extractall(tmp_path / "root", filter="tar")
    assert (tmp_path / "root/usr/bin/a-twin").read_bytes() == b"\x7fELF tool"


def test_folders_come_before_what_is_in_them(tmp_path: Path) -> None:
    order = list(entries(rootfs(folder_of(tmp_path, BASE_PASSWD, TOOL, OTHER))))
    for path in order:
        parent = str(Path(path).parent)
        assert parent == "." or order.index(parent) < order.index(path)


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(3)))
def test_the_order_of_packages_does_not_matter(tmp_path: Path, order: list[int]) -> None:
    debs = folder_of(tmp_path, BASE_PASSWD, TOOL, OTHER)
    assert rootfs([debs[i] for i in order]) == rootfs(debs)


def test_which_package_s_word_on_a_folder_counts_does_not_depend_on_order(tmp_path: Path) -> None:
    closed = ("closed", [("./srv/", 0o700), ("./srv/closed", b"")])
    opened = ("opened", [("./srv/", 0o755), ("./srv/opened", b"")])
    debs = folder_of(tmp_path, BASE_PASSWD, closed, opened)
    data = rootfs(debs)
    assert data == rootfs(debs[::-1])
    assert entries(data)["srv"].mode == 0o700  # the first by name


def test_names_of_temporary_folders_do_not_matter(tmp_path: Path) -> None:
    one = rootfs(folder_of(tmp_path / "a", BASE_PASSWD, TOOL))
    two = rootfs(folder_of(tmp_path / "somewhere else", BASE_PASSWD, TOOL))
    assert one == two


def test_what_maintainer_scripts_would_have_made(tmp_path: Path) -> None:
    data = rootfs(folder_of(tmp_path, BASE_PASSWD, OTHER))
    found = entries(data)
    passwd = content(data, "etc/passwd").decode().splitlines()
    assert passwd[0] == "root:x:0:0:root:/root:/bin/bash"
    assert passwd[-1].startswith("kiln:x:1000:1000:")
    assert content(data, "etc/group").decode().splitlines()[-1] == "kiln:x:1000:"
    assert found["bin/sh"].linkname == "dash"
    assert found["tmp"].mode == 0o1777
    for place in ("in", "out", "kiln/stages", "dev", "proc", "sys", "run"):
        assert found[place].isdir(), place  # a read-only root cannot grow mount points
    status = content(data, "var/lib/dpkg/status").decode()
    assert status.startswith("Package: base-passwd\nStatus: install ok installed\n")
    assert "\n\nPackage: other\nStatus: install ok installed\nVersion: 1.0\n" in status
    listed = content(data, "var/lib/dpkg/info/other.list").decode().splitlines()
    assert listed == ["/.", "/usr", "/usr/lib", "/usr/lib/other.so"]
    sums = content(data, "var/lib/dpkg/info/other.md5sums")
    assert sums == hashlib.md5(b"other").hexdigest().encode() + b"  usr/lib/other.so\n"


def test_a_link_that_a_package_ships_itself_is_left_alone(tmp_path: Path) -> None:
    """Debian 13: /bin is a link to /usr/bin, and dash brings /usr/bin/sh."""
    files = ("base-files", [("./bin", "usr/bin"), ("./usr/", None), ("./usr/bin/", None)])
    dash = ("dash", [("./usr/", None), ("./usr/bin/", None), ("./usr/bin/sh", "dash")])
    data = rootfs(folder_of(tmp_path, BASE_PASSWD, files, dash))
    found = entries(data)
    assert (found["bin"].linkname, found["usr/bin/sh"].linkname) == ("usr/bin", "dash")
    assert "bin/sh" not in found
    assert found["var/run"].linkname == "/run"


def test_two_packages_with_one_file_are_refused(tmp_path: Path) -> None:
    rival = ("rival", [("./usr/lib/other.so", b"other")])
    with pytest.raises(ArchiveError) as caught:
        rootfs(folder_of(tmp_path, BASE_PASSWD, OTHER, rival))
    assert caught.value.message == "Both other and rival ship /usr/lib/other.so."


def test_a_file_where_another_has_a_folder_is_refused(tmp_path: Path) -> None:
    rival = ("rival", [("./usr/lib", b"a file")])
    with pytest.raises(ArchiveError, match="Both other and rival ship /usr/lib"):
        rootfs(folder_of(tmp_path, BASE_PASSWD, OTHER, rival))


def test_without_base_passwd_there_are_no_users(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError) as caught:
        rootfs(folder_of(tmp_path, OTHER))
    assert "passwd.master" in caught.value.message
    assert "base-passwd" in caught.value.remedy


GOOD = deb(*OTHER)
XZ = GOOD.rindex(b"\xfd7zXZ")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a package at all",
        b"!<arch>\n",
        GOOD[:100],
        GOOD[: len(GOOD) // 2],
        GOOD[: XZ + 90],
        ar([("debian-binary", b"2.0\n")]),
        ar([("debian-binary", b"2.0\n"), ("control.tar.xz", tar_xz([])), ("data.tar.xz", b"x")]),
        ar(
            [
                ("debian-binary", b"2.0\n"),
                ("control.tar.xz", tar_xz([("./control", b"Nonsense: 1\n")])),
                ("data.tar.xz", tar_xz([])),
            ]
        ),
        # Inside the compressed payload.
        GOOD[: XZ + 40] + bytes(16) + GOOD[XZ + 56 :],
    ],
    ids=[
        "empty",
        "text",
        "no members",
        "cut in control",
        "cut in the middle",
        "cut in the payload",
        "no control",
        "data is not xz",
        "no name",
        "damaged xz",
    ],
)
def test_a_damaged_package_is_named(tmp_path: Path, data: bytes) -> None:
    debs = folder_of(tmp_path, BASE_PASSWD)
    bad = tmp_path / "bad_1.0_amd64.deb"
    bad.write_bytes(data)
    with pytest.raises(ArchiveError) as caught:
        rootfs([*debs, bad])
    assert caught.value.message.startswith("bad_1.0_amd64.deb is not a readable Debian package")
    assert "kiln clean --store" in caught.value.remedy


def test_damage_deep_inside_a_large_payload_is_found(tmp_path: Path) -> None:
    noise = random.Random(7).randbytes(300_000)
    data = bytearray(deb("large", [("./one", b"1"), ("./noise", noise), ("./two", b"2")]))
    data[len(data) // 2] ^= 1
    path = tmp_path / "large_1_all.deb"
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match=r"large_1_all\.deb is not a readable Debian package"):
        rootfs([*folder_of(tmp_path, BASE_PASSWD), path])


@settings(max_examples=60, deadline=None)
@given(st.integers(8, len(GOOD) - 1), st.integers(1, 255))
def test_a_flipped_byte_never_ends_in_a_traceback(at: int, flip: int) -> None:
    damaged = bytearray(GOOD)
    damaged[at] ^= flip
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        debs = folder_of(Path(folder), BASE_PASSWD)
        bad = Path(folder) / "other_1.0_amd64.deb"
        bad.write_bytes(damaged)
        try:
            data = rootfs([*debs, bad])
        except ArchiveError:
            return
        # Not noticed (padding, owners, times of ar): then the result is a whole tar.
        assert "var/lib/dpkg/status" in entries(data)


def test_the_payload_may_be_gzip_too(tmp_path: Path) -> None:
    import gzip

    members = [
        ("debian-binary", b"2.0\n"),
        (
            "control.tar.gz",
            gzip.compress(lzma.decompress(tar_xz([("./control", b"Package: g\n")]))),
        ),
        ("data.tar.gz", gzip.compress(lzma.decompress(tar_xz([("./g", b"g")])))),
    ]
    path = tmp_path / "g_1_all.deb"
    path.write_bytes(ar(members))
    data = rootfs([*folder_of(tmp_path, BASE_PASSWD), path])
    assert content(data, "g") == b"g"
