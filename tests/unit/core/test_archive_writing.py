"""Archives that are written: the same bytes for the same contents."""

from __future__ import annotations

import hashlib
import io
import os
import random
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiln.core.archive import TarEntry, deterministic_tar, unpack
from kiln.core.errors import ArchiveError

# -- deterministic_tar --------------------------------------------------------------------------


def _tar(source: Path | list[TarEntry], **options: object) -> bytes:
    out = io.BytesIO()
    deterministic_tar(out, source, **{"mtime": 7, **options})  # type: ignore[arg-type]
    return out.getvalue()


def test_the_bytes_are_the_known_ones() -> None:
    entries = [
        TarEntry("b", b"two", executable=True),
        TarEntry("a"),
        TarEntry("a/c" * 60, "é".encode()),
    ]
    digest = hashlib.sha256(_tar(entries)).hexdigest()
    assert digest == KNOWN


KNOWN = "afe09952f255e6cfe4ba9e16d760d2902255f6f00bf33dee889be9ad5307a80a"


@given(
    st.dictionaries(
        st.text("ab/é", min_size=1, max_size=130), st.tuples(st.binary(max_size=9), st.booleans())
    ),
    st.randoms(),
)
def test_the_order_of_entries_does_not_count(
    files: dict[str, tuple[bytes, bool]], shuffler: random.Random
) -> None:
    entries = [TarEntry(name, data, bit) for name, (data, bit) in files.items()]
    first = _tar(entries)
    shuffler.shuffle(entries)
    assert _tar(entries) == first


def test_a_folder_written_twice_under_other_circumstances(tmp_path: Path) -> None:
    made = []
    for name, order in (("one", [0, 1, 2]), ("two", [2, 0, 1])):
        root = tmp_path / name
        old = os.umask(0o077 if name == "two" else 0o022)
        try:
            for number in order:
                path = root / f"sub{number}" / "file"
                path.parent.mkdir(parents=True)
                path.write_text(str(number))
                os.utime(path, (number, number))
            (root / "link").symlink_to("sub0/file")
            (root / "sub1" / "file").chmod(0o700)
        finally:
            os.umask(old)
        made.append(_tar(root, prefix="top/"))
    assert made[0] == made[1]
    with tarfile.open(fileobj=io.BytesIO(made[0])) as tar:
        infos = tar.getmembers()
    assert [i.name for i in infos] == [
        *("top/link", "top/sub0", "top/sub0/file", "top/sub1", "top/sub1/file"),
        *("top/sub2", "top/sub2/file"),
    ]
    assert {(i.uid, i.gid, i.uname, i.gname, i.mtime) for i in infos} == {(0, 0, "", "", 7)}
    assert [oct(i.mode) for i in infos[:5]] == ["0o777", "0o755", "0o644", "0o755", "0o755"]


def test_what_is_written_can_be_unpacked(tmp_path: Path) -> None:
    entries = [TarEntry("m/x", b"1", executable=True), TarEntry("m/l", link="x")]
    dest = tmp_path / "dest"
    (tmp_path / "m.tar").write_bytes(_tar(entries))
    unpack(tmp_path / "m.tar", dest, root="m")
    assert (dest / "m/l").read_bytes() == b"1"
    assert os.access(dest / "m/x", os.X_OK)


def test_tars_that_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="Two entries are named 'a'"):
        _tar([TarEntry("a", b"1"), TarEntry("a", b"2")])
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArchiveError, match="pipe is neither"):
        _tar(tmp_path)
