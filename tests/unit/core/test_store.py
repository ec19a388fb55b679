"""The store: contents by digest, results, refs."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from small_disk import small_disk
from store_results import KEY, result_of, sha

from kiln.core import files as kiln_files
from kiln.core.errors import DigestMismatchError, DiskFullError, StoreError
from kiln.core.stage_result import Blob, StageResult
from kiln.core.store import DamagedContentError, Store


def everything(store: Store) -> list[str]:
    """Every file of the store but the lock files."""
    found = (p.relative_to(store.root) for p in store.root.rglob("*") if not p.is_dir())
    return sorted(str(p) for p in found if p.parts[0] != "locks")


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_store_that_is_made_is_ours_alone(tmp_path: Path, umask: int) -> None:
    root = tmp_path / "cache" / "store"
    before = os.umask(umask)
    try:
        made = Store(root)
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (root, root.parent)] == [0o700, 0o700]
    assert made.has(made.add_bytes(b"x"))


def test_a_store_s_folder_that_is_there_stays_as_open_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o2775)
    Store(tmp_path / "shared")
    assert (tmp_path / "shared").stat().st_mode & 0o7777 == 0o2775


# -- blobs --------------------------------------------------------------------------------------


def test_add_bytes_and_read_back(store: Store) -> None:
    digest = store.add_bytes(b"hello")
    assert digest == sha(b"hello") == store.add_bytes(b"hello")
    path = store.path(digest)
    assert path == store.root / "blobs" / "sha256" / digest[:2] / digest
    assert path.read_bytes() == b"hello"
    assert path.stat().st_mode & 0o777 == 0o444
    assert store.has(digest)
    assert not store.has(sha(b"other"))
    assert len(everything(store)) == 1


@pytest.mark.parametrize(
    "bad", ["", "abc", "../../etc/passwd", "AB" * 32, "ab" * 33, "ab" * 32 + "\n"]
)
def test_what_is_no_digest_is_refused(store: Store, bad: str) -> None:
    for ask in (store.has, store.path, store.discard, store.get_result):
        with pytest.raises(StoreError):
            ask(bad)


def test_a_missing_blob(store: Store) -> None:
    with pytest.raises(StoreError, match=KEY):
        store.path(KEY)


@pytest.mark.parametrize("move", [False, True])
def test_add_file(store: Store, tmp_path: Path, move: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    inode = path.stat().st_ino
    digest = store.add_file(path, move=move, expect=sha(b"content"))
    assert store.path(digest).read_bytes() == b"content"
    assert store.path(digest).stat().st_mode & 0o777 == 0o444
    assert path.exists() is not move
    assert (store.path(digest).stat().st_ino == inode) is move  # a rename, not a copy
    path.write_bytes(b"content")
    assert store.add_file(path, move=move) == digest  # once more
    assert path.exists() is not move
    assert len(everything(store)) == 1


@pytest.mark.parametrize("move", [False, True])
def test_a_wrong_digest_stores_nothing_and_keeps_the_file(
    store: Store, tmp_path: Path, move: bool
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    with pytest.raises(DigestMismatchError) as caught:
        store.add_file(path, move=move, expect=KEY)
    assert KEY in caught.value.message
    assert sha(b"content") in caught.value.message
    assert path.read_bytes() == b"content"
    assert everything(store) == []


def test_moving_a_file_with_a_second_name_does_not_let_it_change_the_blob(
    store: Store, tmp_path: Path
) -> None:
    path, second = tmp_path / "file", tmp_path / "second"
    path.write_bytes(b"content")
    second.hardlink_to(path)
    digest = store.add_file(path, move=True)
    assert not path.exists()
    second.write_bytes(b"changed")
    assert store.path(digest).read_bytes() == b"content"
    assert store.verify() == []


def test_moving_across_file_systems(store: Store, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        (disk / "file").write_bytes(b"content")
        digest = store.add_file(disk / "file", move=True)
        assert list(disk.iterdir()) == []
        assert store.path(digest).read_bytes() == b"content"


def test_only_plain_files_are_taken(store: Store, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/hostname")
    with pytest.raises(StoreError, match="not a plain file"):
        store.add_file(tmp_path / "link")
    with pytest.raises(StoreError, match="not a plain file"):
        store.add_file(tmp_path)
    with pytest.raises(StoreError, match="none"):
        store.add_file(tmp_path / "none")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a").write_bytes(b"a")
    (tmp_path / "tree" / "link").symlink_to("a")
    with pytest.raises(StoreError, match="link is neither"):
        store.add_tree(tmp_path / "tree")
    assert (tmp_path / "tree" / "a").exists()
    assert everything(store) == []


def test_a_blob_that_has_lost_bytes_is_replaced(store: Store, tmp_path: Path) -> None:
    digest = store.add_bytes(b"content")
    for again in ("bytes", "copy", "move"):
        store.path(digest).chmod(0o644)
        store.path(digest).write_bytes(b"cont")
        (tmp_path / "file").write_bytes(b"content")
        if again == "bytes":
            store.add_bytes(b"content")
        else:
            store.add_file(tmp_path / "file", move=again == "move")
        assert store.path(digest).read_bytes() == b"content"


@pytest.mark.parametrize("move", [False, True])
def test_add_tree_and_materialize(store: Store, tmp_path: Path, move: bool) -> None:
    tree = tmp_path / "tree"
    (tree / "deep" / "er").mkdir(parents=True)
    (tree / "deep" / "er" / "é").write_bytes(b"1")
    (tree / "a").write_bytes(b"22")
    (tree / "same").write_bytes(b"22")
    found = store.add_tree(tree, move=move)
    assert found == {
        "a": Blob(sha(b"22"), 2),
        "deep/er/é": Blob(sha(b"1"), 1),
        "same": Blob(sha(b"22"), 2),
    }
    assert list(found) == sorted(found)
    assert len([p for p in tree.rglob("*") if p.is_file()]) == (0 if move else 3)
    for link in (False, True):
        dest = tmp_path / f"out{link}"
        store.materialize(found, dest, link=link)
        assert (dest / "deep/er/é").read_bytes() == b"1"
        assert (dest / "a").samefile(store.path(sha(b"22"))) is link
        assert (dest / "a").stat().st_mode & 0o777 == (0o444 if link else 0o644)
    store.materialize({"x": sha(b"1")}, tmp_path / "out3", link=True)
    assert (tmp_path / "out3" / "x").read_bytes() == b"1"


def test_materialize_copies_where_links_cannot_reach(store: Store, tmp_path: Path) -> None:
    digest = store.add_bytes(b"content")
    with small_disk(tmp_path / "disk") as disk:
        store.materialize({"a": digest}, disk / "out", link=True)
        assert (disk / "out" / "a").read_bytes() == b"content"
        big = store.add_bytes(bytes(1_000_000))
        with pytest.raises(DiskFullError, match="disk/out"):
            store.materialize({"b": big}, disk / "out", link=False)
        assert [p.name for p in (disk / "out").iterdir()] == ["a"]


@pytest.mark.parametrize("name", ["", "/abs", "../out", "a/../b", "a//b", "./a", "a/", "a\0b"])
def test_materialize_never_leaves_its_folder(store: Store, tmp_path: Path, name: str) -> None:
    digest = store.add_bytes(b"content")
    with pytest.raises(StoreError, match="not a relative file name"):
        store.materialize({name: digest}, tmp_path / "out", link=False)
    assert list((tmp_path / "out").iterdir()) == []


def test_materialize_refuses_what_is_not_whole(store: Store, tmp_path: Path) -> None:
    digest = store.add_bytes(b"content")
    with pytest.raises(StoreError, match="has lost bytes"):
        store.materialize({"a": Blob(digest, 8)}, tmp_path / "out", link=True)
    with pytest.raises(StoreError, match="no content"):
        store.materialize({"a": KEY}, tmp_path / "out", link=True)
    store.materialize({"a": digest}, tmp_path / "out", link=False)
    with pytest.raises(StoreError, match="exists already"):
        store.materialize({"a": digest}, tmp_path / "out", link=False)


def test_verify_finds_damage_and_discard_forgets_it(store: Store) -> None:
    good, bad, short = (store.add_bytes(data) for data in (b"good", b"evil", b"short"))
    for digest, data in ((bad, b"live"), (short, b"s")):
        store.path(digest).chmod(0o644)
        store.path(digest).write_bytes(data)
    assert store.verify() == sorted([bad, short])
    store.discard(bad)
    store.discard(short)
    store.discard(short)
    assert store.verify() == []
    assert store.has(good)
    assert not store.has(bad)


def test_results_come_back_as_they_were(store: Store) -> None:
    assert store.get_result(KEY) is None
    result = result_of(store)
    store.put_result(result)
    assert store.get_result(KEY) == result
    assert Store(store.root).get_result(KEY) == result


def test_a_result_without_its_blobs_cannot_be_put_and_is_not_got(store: Store) -> None:
    result = result_of(store)
    with pytest.raises(StoreError, match="'y'"):
        store.put_result(StageResult(KEY, "export", {**result.files, "y": Blob(KEY, 1)}))
    store.put_result(result)
    store.discard(sha(b"model"))
    assert store.get_result(KEY) is None
    store.add_bytes(b"model")
    assert store.get_result(KEY) == result
    store.path(sha(b"model")).chmod(0o644)
    store.path(sha(b"model")).write_bytes(b"mo")
    assert store.get_result(KEY) is None
    # What it was is still known.
    assert store.remembered(KEY) == result
    assert not store.holds(result)


def test_a_content_is_sound_or_gone(store: Store) -> None:
    digest = store.add_bytes(b"content")
    assert store.sound(digest)
    store.path(digest).chmod(0o644)
    store.path(digest).write_bytes(b"c0ntent")
    assert store.has(digest)
    assert not store.sound(digest)
    assert not store.has(digest)
    assert not store.sound(digest)
    store.add_bytes(b"content")  # what is damaged would have stood in its way
    assert store.sound(digest)
    assert store.read(digest, "a word") == b"content"
    store.path(digest).chmod(0o644)
    store.path(digest).write_bytes(b"c0ntent")
    with pytest.raises(DamagedContentError, match=f"{digest}.*a word"):
        store.read(digest, "a word")
    with pytest.raises(StoreError, match="has no content"):
        store.read(digest, "a word")


def _spoil(text: str, **changes: object) -> str:
    return json.dumps({**json.loads(text), **changes})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "[" * 100_000,
        lambda text: "\udcff",
        lambda text: _spoil(text, version=99),
        lambda text: _spoil(text, key="cd" * 32),
        lambda text: _spoil(text, files=[]),
        lambda text: _spoil(text, files={"../x": {"sha256": KEY, "size": 1}}),
        lambda text: _spoil(text, files={"x": {"sha256": "../../etc/passwd", "size": 1}}),
        lambda text: _spoil(text, files={"x": {"sha256": KEY, "size": "1"}}),
        lambda text: _spoil(text, facts=None),
        lambda text: _spoil(text, seconds="soon"),
        lambda text: _spoil(text, peak_rss=None),
        lambda text: _spoil(text, stage=3),
        lambda text: json.dumps({"version": 1, "key": KEY}),
    ],
)
def test_a_spoiled_manifest_is_removed_and_made_anew(store: Store, spoil: object) -> None:
    result = result_of(store)
    store.put_result(result)
    place = store.root / "results" / f"{KEY}.json"
    assert callable(spoil)
    place.write_bytes(spoil(place.read_text()).encode("utf-8", "surrogateescape"))
    assert store.get_result(KEY) is None
    assert not place.exists()
    store.put_result(result)
    assert store.get_result(KEY) == result


def test_refs(store: Store) -> None:
    names = ["plain", "with/slash", "..", ".", ".hidden", "é" * 200, "x" * 1000, "a%2Fb", ""]
    for number, name in enumerate(names):
        assert store.get_ref("kind", name) is None
        store.set_ref("kind", name, {"n": number})
    assert [store.get_ref("kind", name) for name in names] == [{"n": n} for n in range(len(names))]
    assert store.get_ref("other/kind", "plain") is None
    store.set_ref("kind", "plain", {"n": -1})
    assert store.get_ref("kind", "plain") == {"n": -1}
    place = store.root / "refs" / "kind" / "plain.json"
    place.write_text("{")
    assert store.get_ref("kind", "plain") is None
    assert not place.exists()


# -- disks --------------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_store_sound(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(os.urandom(1_000_000))
    with small_disk(tmp_path / "disk") as disk:
        store = Store(disk / "store")
        kept = store.add_bytes(b"kept")
        before = everything(store)
        for add in (
            lambda: store.add_file(tmp_path / "big"),
            lambda: store.add_file(tmp_path / "big", move=True),
            lambda: store.add_bytes(bytes(1_000_000)),
            lambda: store.set_ref("kind", "name", {"x": "y" * 1_000_000}),
        ):
            with pytest.raises(DiskFullError, match="MB free on the file system of"):
                add()
            assert everything(store) == before
        assert (tmp_path / "big").exists()
        assert store.verify() == []
        assert store.path(kept).read_bytes() == b"kept"
        assert store.add_bytes(b"goes on")


def test_a_full_disk_in_the_middle_of_a_write(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write

    def fills_up(fd: int, data: bytes) -> int:
        if len(data) < 600:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data[:400])  # a short write, as before a disk is full

    monkeypatch.setattr(kiln_files.os, "write", fills_up)
    with pytest.raises(DiskFullError):
        store.add_bytes(bytes(1000))
    assert everything(store) == []


def test_a_place_that_cannot_be_a_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot be used"):
        Store(tmp_path / "file" / "store")


def test_usage_counts_each_file_once(store: Store, tmp_path: Path) -> None:
    empty = store.usage()
    digest = store.add_bytes(bytes(100_000))
    with store.scratch() as folder:
        store.materialize({"a": digest, "b": digest}, folder, link=True)
        assert store.usage() - empty == 100_000


def test_default_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KILN_STORE", str(tmp_path / "here"))
    assert Store.default_root() == tmp_path / "here"
    monkeypatch.setenv("KILN_STORE", "~/there")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Store.default_root() == tmp_path / "there"
    monkeypatch.delenv("KILN_STORE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert Store.default_root() == tmp_path / "cache" / "tflite-kiln"
