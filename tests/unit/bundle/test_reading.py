"""Bundles: whole at import, or refused; what a damaged or stopped one leaves is sound."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_bundle import members, packed_again, refused

from kiln.bundle.reading import import_bundle
from kiln.core.errors import UsageError
from kiln.core.store import Store

# -- damage -------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_one_flipped_bit_is_seen(
    small: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    bit = data.draw(st.integers(0, len(small) * 8 - 1))
    damaged = bytearray(small)
    damaged[bit // 8] ^= 1 << bit % 8
    refused(bytes(damaged), tmp_path_factory.mktemp("flip"))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_an_image_with_one_flipped_bit(
    bundle: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    damaged = bytearray(bundle.read_bytes())
    bit = data.draw(st.integers(0, len(damaged) * 8 - 1))
    damaged[bit // 8] ^= 1 << bit % 8
    refused(bytes(damaged), tmp_path_factory.mktemp("flip"))


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_cut_off_anywhere(
    small: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    length = data.draw(st.integers(0, len(small) - 1))
    refused(small[:length], tmp_path_factory.mktemp("cut"))


def test_packing_alone_changes_nothing(small: bytes) -> None:
    """What the changes below do is what is refused, not how the tar is made."""
    assert packed_again(members(small)) == small


def extra(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def renamed(found: list[Any]) -> list[Any]:
    name = found[3][0].name
    found[3][0].name = name[:-1] + ("1" if name.endswith("0") else "0")
    return found


def linked(found: list[Any]) -> list[Any]:
    info = extra(found[2][0].name, tarfile.SYMTYPE, "/etc/passwd")
    return [*found[:2], (info, b""), *found[3:]]


CHANGES: dict[str, Callable[[list[Any]], list[Any]]] = {
    "renamed": renamed,
    "a member more": lambda found: [*found, (extra("blobs/sha256/x"), b"")],
    "a member more inside": lambda found: [found[0], (extra("../../etc/x"), b""), *found[1:]],
    "one twice": lambda found: [*found, found[-1]],
    "one twice inside": lambda found: [*found[:2], found[1], *found[2:]],
    "one missing": lambda found: found[:-1],
    "another order": lambda found: [found[0], found[2], found[1], *found[3:]],
    "a link": linked,
    "a hard link more": lambda found: [
        *found,
        (extra("x", tarfile.LNKTYPE, found[1][0].name), b""),
    ],
    "a folder": lambda found: [found[0], (extra("blobs", tarfile.DIRTYPE), b""), *found[1:]],
    "no index": lambda found: found[1:],
    "index last": lambda found: [*found[1:], found[0]],
    "two indexes": lambda found: [found[0], *found],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_other_members(
    small: bytes, change: Callable[[list[Any]], list[Any]], tmp_path: Path
) -> None:
    refused(packed_again(change(members(small))), tmp_path)


@pytest.mark.parametrize("data", [b"", b"x", bytes(10240), b"PK\3\4" + bytes(2000)])
def test_no_bundle_at_all(data: bytes, tmp_path: Path) -> None:
    assert "is not a bundle" in refused(data, tmp_path)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.tar", tmp_path):
        with pytest.raises(UsageError):
            import_bundle(path, Store(tmp_path / "store"))


def test_what_was_whole_before_the_damage_stays_and_helps(small: bytes, tmp_path: Path) -> None:
    damaged = bytearray(small)
    with tarfile.open(fileobj=io.BytesIO(small)) as tar:
        damaged[tar.getmembers()[-1].offset_data] ^= 1
    refused(bytes(damaged), tmp_path)
    store = Store(tmp_path / "refusing")
    path = tmp_path / "whole.tar"
    path.write_bytes(small)
    assert import_bundle(path, store).new == 1


KILLED = """\
import os, signal, sys
from pathlib import Path
from kiln.bundle.reading import import_bundle
from kiln.core.store import Store

def kill(done, total):
    if done > total * float(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

import_bundle(Path(sys.argv[1]), Store(Path(sys.argv[2])), kill)
"""


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_killed_in_the_middle(bundle: Path, share: float, tmp_path: Path) -> None:
    root = tmp_path / "store"
    ended = subprocess.run([sys.executable, "-c", KILLED, bundle, root, str(share)], check=False)
    assert ended.returncode == -signal.SIGKILL
    store = Store(root)
    store.sweep()
    assert store.verify() == []
    assert list(store.tmp.iterdir()) == list((root / "refs").iterdir()) == []
    found = import_bundle(bundle, store)
    # Early on there may be nothing whole yet.
    assert 0 < found.new < len(found.index.blobs) + (share < 0.5)
