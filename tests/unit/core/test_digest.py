from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiln.core import digest
from kiln.core.errors import StoreError

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("aé\U0001f600", max_size=3), inner),
    max_leaves=12,
)


def _shuffled(obj: object) -> object:
    if isinstance(obj, dict):
        return {key: _shuffled(obj[key]) for key in reversed(list(obj))}
    return [_shuffled(item) for item in obj] if isinstance(obj, list) else obj


@given(plain)
def test_canonical_json_reads_back_and_ignores_the_order_of_keys(obj: object) -> None:
    data = digest.canonical_json(obj)
    assert json.loads(data) == obj
    assert digest.canonical_json(_shuffled(obj)) == data
    assert digest.canonical_json(json.loads(data)) == data


@pytest.mark.parametrize(
    ("obj", "error"),
    [
        (float("nan"), ValueError),
        ([float("inf")], ValueError),
        ({1: "a"}, TypeError),
        ([{"a": {True: 1}}], TypeError),
        ({"a": b"bytes"}, TypeError),
        ({"a": {1, 2}}, TypeError),
        ("\ud800", ValueError),
    ],
)
def test_canonical_json_refuses_what_has_no_one_spelling(
    obj: object, error: type[Exception]
) -> None:
    with pytest.raises(error):
        digest.canonical_json(obj)


def test_a_structure_within_itself_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(ValueError, match="ircular"):
        digest.canonical_json(loop)


def test_canonical_json_has_one_known_spelling() -> None:
    spelling = b'{"a":"\xc3\xbc","b":[1,1.0,null,true]}'
    assert digest.canonical_json({"b": (1, 1.0, None, True), "a": "ü"}) == spelling
    assert digest.key_of({"b": [1, 1.0, None, True], "a": "ü"}) == (
        hashlib.sha256(spelling).hexdigest()
    )


def test_file_digests_agree_with_the_tools_everyone_has(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(3_000_001))
    shell = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True)
    assert digest.sha256_file(path) == shell.stdout.split()[0]
    assert digest.sha256_file(path) == digest.sha256_bytes(path.read_bytes())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"),  # git's well-known empty blob
        (b"hello\n", "ce013625030ba8dba906f756967f9e9ca394464a"),  # printf … | git hash-object
    ],
)
def test_git_blob_sha1(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert digest.git_blob_sha1_file(path) == expected


names = st.text("ab.é ", min_size=1, max_size=4).filter(lambda n: n not in {".", ".."})


@given(st.dictionaries(names, st.tuples(st.binary(max_size=20), st.booleans()), max_size=6))
def test_tree_digest_does_not_depend_on_the_order_of_creation(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, tuple[bytes, bool]]
) -> None:
    roots = [tmp_path_factory.mktemp("tree") for _ in range(2)]
    for root, order in zip(roots, (list(files), list(reversed(files))), strict=True):
        for name in order:
            path = root / "sub" / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(files[name][0])
            path.chmod(0o700 if files[name][1] else 0o604)
    assert digest.tree_digest(roots[0]) == digest.tree_digest(roots[1])


def test_tree_digest_sees_what_counts_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    file = tmp_path / "sub" / "file.py"
    file.write_text("one")
    first = digest.tree_digest(tmp_path)

    os.utime(file, (1, 1))
    file.chmod(0o600)
    (tmp_path / "empty").mkdir()
    cache = tmp_path / "sub" / "__pycache__"
    cache.mkdir()
    (cache / "file.cpython-39.pyc").write_bytes(b"x")
    (tmp_path / "old.pyc").write_bytes(b"x")
    assert digest.tree_digest(tmp_path) == first

    seen = {first}
    file.chmod(0o700)
    seen.add(digest.tree_digest(tmp_path))
    file.write_text("two")
    seen.add(digest.tree_digest(tmp_path))
    file.rename(tmp_path / "sub" / "other.py")
    seen.add(digest.tree_digest(tmp_path))
    assert len(seen) == 4


def test_tree_digest_cannot_be_fooled_by_moving_a_separator(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for root, name in ((one, "a/b"), (two, "a-b")):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text("same")
    assert digest.tree_digest(one) != digest.tree_digest(two)


def test_tree_digest_refuses_links_pipes_and_missing_folders(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to("/etc/hostname")
    with pytest.raises(StoreError, match="link is a symbolic link"):
        digest.tree_digest(root)
    (root / "link").unlink()
    os.mkfifo(root / "pipe")
    with pytest.raises(StoreError, match="pipe is neither"):
        digest.tree_digest(root)
    with pytest.raises(StoreError, match="not a folder"):
        digest.tree_digest(tmp_path / "none")


def test_tree_digest_refuses_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).write_text("x")
    with pytest.raises(StoreError, match="not UTF-8"):
        digest.tree_digest(tmp_path)
