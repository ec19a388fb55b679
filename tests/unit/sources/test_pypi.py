from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pypi_simple
import pytest
from local_server import Site, serving

from kiln.core.errors import DigestMismatchError, RecipeError, SourceUnavailableError
from kiln.core.store import Store
from kiln.sources import http, pypi
from kiln.sources.pypi import Pin, fetch_lock, read_lock, resolve


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Index:
    """A simple index (JSON) with files of our own making."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def project(self, name: str, *filenames: str, sizes: bool = True) -> dict[str, str]:
        """Put a project there; returns its files' digests."""
        digests = {}
        listed = []
        for filename in filenames:
            data = filename.encode() * 50
            self.site.files[f"files/{filename}"] = data
            digests[filename] = sha(data)
            entry = {
                "filename": filename,
                "url": self.site.url(f"files/{filename}"),
                "hashes": {"sha256": sha(data)},
            }
            listed.append({**entry, "size": len(data)} if sizes else entry)
        page = {"meta": {"api-version": "1.1"}, "name": name, "versions": [], "files": listed}
        self.site.files[f"simple/{name}/"] = json.dumps(page).encode()
        self.site.types[f"simple/{name}/"] = "application/vnd.pypi.simple.v1+json"
        return digests

    @property
    def pages_asked(self) -> list[str]:
        return [path for path, _ in self.site.asked if path.startswith("simple/")]


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(http, "BACKOFF", 0.01)
    with serving() as site:
        monkeypatch.setenv("KILN_PYPI_INDEX", site.url("simple"))
        yield Index(site)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def lock_of(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "requirements.lock"
    path.write_text(text)
    return path


A, B = "aa" * 32, "bb" * 32


def test_a_lock_as_the_compilers_write_it(tmp_path: Path) -> None:
    text = f"""\
# made by a tool
#    with a command
absl-py==2.3.1 \\
    --hash=sha256:{A} \\
    --hash=sha256:{B}
    # via tflite-support
Foo_Bar[extra] == 1.0.post1 --hash=sha256:{A}  # the end

zipp==3.0 --hash=sha256:{B} \\
"""
    assert read_lock(lock_of(tmp_path, text)) == [
        Pin("absl-py", "2.3.1", frozenset({A, B})),
        Pin("Foo_Bar", "1.0.post1", frozenset({A})),
        Pin("zipp", "3.0", frozenset({B})),
    ]
    assert read_lock(lock_of(tmp_path, "# nothing\n")) == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("foo==1.0", "foo has no hash"),
        (f"foo>=1.0 --hash=sha256:{A}", "not of the form name==version"),
        (f"foo --hash=sha256:{A}", "not of the form name==version"),
        (f"foo==1.* --hash=sha256:{A}", "not of the form name==version"),
        (f"foo==1.0,<2 --hash=sha256:{A}", "not of the form name==version"),
        (f"foo===1.0 --hash=sha256:{A}", "not of the form name==version"),
        (f'foo==1.0 ; python_version < "3" --hash=sha256:{A}', "not of the form"),
        (f"foo @ file:///x.whl --hash=sha256:{A}", "not of the form"),
        ("foo==1.0 --hash=sha256:1234", "not a SHA-256 hash"),
        ("foo==1.0 --hash=md5:0cc175b9c0f1b6a831c399e269772661", "not a SHA-256 hash"),
        (f"foo==1.0 --hash=sha256:{A} --no-deps", "'--no-deps' is not a SHA-256 hash"),
        ("--index-url http://example.invalid/simple", "the option '--index-url'"),
        ("-r other.txt", "the option '-r'"),
        ("?!", "is not understood"),
        (f"ok_1==2 --hash=sha256:{A}", "ok_1 is pinned twice"),
    ],
)
def test_lines_a_lock_must_not_have(tmp_path: Path, line: str, why: str) -> None:
    path = lock_of(tmp_path, f"# head\nok.1==1 --hash=sha256:{A}\n{line}\n")
    with pytest.raises(RecipeError) as caught:
        read_lock(path)
    assert why in caught.value.message
    assert f"{path}, line 3:" in caught.value.message


def test_locks_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="No such file"):
        read_lock(tmp_path / "none")
    (tmp_path / "odd").write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match="UTF-8"):
        read_lock(tmp_path / "odd")


@pytest.mark.parametrize(
    ("files", "best"),
    [
        (["foo-1-py3-none-any.whl", "foo-1.tar.gz"], 0),
        (["foo-1.zip", "foo-1.tar.gz"], 1),
        (["foo-1-py3-none-any.whl", "foo-1-cp39-cp39-manylinux2014_x86_64.whl"], 1),
        (["foo-1-cp38-abi3-manylinux1_x86_64.whl", "foo-1-py2.py3-none-any.whl"], 0),
        (["foo-1-cp39-cp39-manylinux_2_28_x86_64.whl", "foo-1-cp39-cp39-manylinux1_x86_64.whl"], 0),
        (["foo-1-cp39-cp39-manylinux_2_34_x86_64.whl", "foo-1-cp39-cp39-manylinux1_x86_64.whl"], 1),
        (["foo-1-cp310-cp310-manylinux1_x86_64.whl", "foo-1.tar.gz"], 1),
        (["foo-1-cp39-cp39-musllinux_1_1_x86_64.whl", "foo-1.tar.gz"], 1),
        (["foo-1-cp39-cp39-manylinux2014_aarch64.whl", "foo-1.tar.gz"], 1),
        (["foo-1-cp39-cp39-win_amd64.whl", "foo-1.tar.gz"], 1),
        (["foo-1-1-py3-none-any.whl", "foo-1-2-py3-none-any.whl"], 1),
        (["foo-1-cp39-cp39-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", "foo-1.tar.gz"], 0),
        (["foo-1.exe", "foo-bad.whl", "foo-1.tar.gz"], 2),
    ],
)
def test_the_file_that_fits_best(index: Index, files: list[str], best: int) -> None:
    for order in (files, files[::-1]):
        digests = index.project("foo", *order)
        (download,) = resolve([Pin("Foo", "1", frozenset(digests.values()))])
        assert download.name == files[best]
        assert download.sha256 == digests[files[best]]
        assert download.size == 50 * len(files[best])
        assert download.urls == (index.site.url(f"files/{files[best]}"),)


def test_only_pinned_files_count(index: Index) -> None:
    digests = index.project("foo", "foo-1-py3-none-any.whl", "foo-1.tar.gz")
    (download,) = resolve([Pin("foo", "1", frozenset({digests["foo-1.tar.gz"], A}))])
    assert download.name == "foo-1.tar.gz"


def test_another_python(index: Index) -> None:
    names = ["foo-1-cp39-cp39-manylinux1_x86_64.whl", "foo-1-cp311-cp311-manylinux1_x86_64.whl"]
    pins = [Pin("foo", "1", frozenset(index.project("foo", *names).values()))]
    assert resolve(pins)[0].name == names[0]
    assert resolve(pins, python="3.11")[0].name == names[1]
    with pytest.raises(SourceUnavailableError, match=r"none of the pinned files at .* fits"):
        resolve(pins, python="3.10")


def test_an_index_in_html(index: Index) -> None:
    data = b"wheel"
    index.site.files["simple/foo/"] = (
        f'<html><body><a href="../../files/foo-1-py3-none-any.whl#sha256={sha(data)}">'
        "foo-1-py3-none-any.whl</a></body></html>"
    ).encode()
    index.site.types["simple/foo/"] = "text/html"
    (download,) = resolve([Pin("foo", "1", frozenset({sha(data)}))])
    assert download.urls == (index.site.url("files/foo-1-py3-none-any.whl"),)
    assert download.size is None


def test_pins_no_index_has(index: Index) -> None:
    index.project("foo", "foo-2.tar.gz")
    with pytest.raises(
        SourceUnavailableError, match=r"foo 1 cannot be fetched: .* none of the pin"
    ):
        resolve([Pin("foo", "1", frozenset({A}))])
    with pytest.raises(SourceUnavailableError, match=r"bar 1 .* no project of that name") as caught:
        resolve([Pin("bar", "1", frozenset({A}))])
    assert "KILN_PYPI_INDEX" in caught.value.remedy
    index.site.types["simple/foo/"] = "image/png"
    with pytest.raises(SourceUnavailableError, match="not a simple index"):
        resolve([Pin("foo", "1", frozenset({A}))])


def test_an_index_that_stumbles_is_asked_again(index: Index) -> None:
    digests = index.project("foo", "foo-1.tar.gz")
    pins = [Pin("foo", "1", frozenset(digests.values()))]
    index.site.statuses = [503, 502]
    assert resolve(pins)[0].name == "foo-1.tar.gz"
    index.site.statuses = [403] * 9
    with pytest.raises(SourceUnavailableError, match=r"foo 1 .*HTTP 403"):
        resolve(pins)
    assert len(index.site.statuses) == 8


def test_no_index_at_all(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILN_PYPI_INDEX", "http://user:secret@127.0.0.1:9/simple")
    with pytest.raises(SourceUnavailableError) as caught:
        resolve([Pin("foo", "1", frozenset({A}))])
    assert "127.0.0.1:9" in caught.value.message
    assert "secret" not in str(caught.value)


def test_which_index_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("KILN_PYPI_INDEX", "PIP_INDEX_URL", "PIP_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    tools = tmp_path / "bin"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    assert pypi.index_url() == pypi_simple.PYPI_SIMPLE_ENDPOINT  # no pip
    pip = tools / "pip"
    pip.write_text('#!/bin/sh\necho "ERROR: No such key" >&2\nexit 1\n')
    pip.chmod(0o755)
    assert pypi.index_url() == pypi_simple.PYPI_SIMPLE_ENDPOINT
    pip.write_text(
        '#!/bin/sh\n[ "$*" = "config get global.index-url" ] && echo http://pip.invalid/simple\n'
    )
    assert pypi.index_url() == "http://pip.invalid/simple"
    monkeypatch.setenv("PIP_INDEX_URL", "http://env.invalid/simple")
    assert pypi.index_url() == "http://env.invalid/simple"
    monkeypatch.setenv("KILN_PYPI_INDEX", "http://kiln.invalid/simple")
    assert pypi.index_url() == "http://kiln.invalid/simple"


def lock_for(tmp_path: Path, index: Index) -> tuple[Path, dict[str, str]]:
    foo = index.project("foo", "foo-1-py3-none-any.whl", "foo-1.tar.gz")
    bar = index.project("bar", "bar-2.tar.gz", sizes=False)
    text = "foo==1 " + " ".join(f"--hash=sha256:{d}" for d in foo.values())
    text += f"\nbar==2 --hash=sha256:{bar['bar-2.tar.gz']}\n"
    expected = {
        "bar-2.tar.gz": bar["bar-2.tar.gz"],
        "foo-1-py3-none-any.whl": foo["foo-1-py3-none-any.whl"],
    }
    return lock_of(tmp_path, text), expected


def test_a_lock_is_fetched_once_and_then_needs_no_network(
    index: Index, store: Store, tmp_path: Path
) -> None:
    lock, expected = lock_for(tmp_path, index)
    seen = set()
    found = fetch_lock(lock, store, on_progress=lambda name, done, total: seen.add(name))
    assert found == expected
    assert list(found) == sorted(found)
    assert seen == set(expected)
    assert store.path(found["bar-2.tar.gz"]).read_bytes() == b"bar-2.tar.gz" * 50
    asked = len(index.site.asked)
    assert fetch_lock(lock, Store(store.root)) == expected
    assert len(index.site.asked) == asked


def test_only_what_is_missing_is_asked_for(index: Index, store: Store, tmp_path: Path) -> None:
    lock, expected = lock_for(tmp_path, index)
    fetch_lock(lock, store)
    store.discard(expected["bar-2.tar.gz"])
    index.site.asked.clear()
    assert fetch_lock(lock, store) == expected
    assert [path for path, _ in index.site.asked] == ["simple/bar/", "files/bar-2.tar.gz"]


def test_a_stored_file_of_another_python_is_not_taken_by_mistake(
    index: Index, store: Store, tmp_path: Path
) -> None:
    names = ["foo-1-cp39-cp39-manylinux1_x86_64.whl", "foo-1-cp311-cp311-manylinux1_x86_64.whl"]
    digests = index.project("foo", *names)
    hashes = " ".join(f"--hash=sha256:{d}" for d in digests.values())
    lock = lock_of(tmp_path, f"foo==1 {hashes}")
    assert list(fetch_lock(lock, store, python="3.11")) == [names[1]]
    assert list(fetch_lock(lock, store)) == [names[0]]


def test_a_file_that_is_not_what_the_index_says(index: Index, store: Store, tmp_path: Path) -> None:
    lock, _ = lock_for(tmp_path, index)
    index.site.files["files/bar-2.tar.gz"] = b"evil"
    with pytest.raises(DigestMismatchError, match=r"bar-2\.tar\.gz"):
        # One after the other: a download stopped by another's failure keeps its beginning.
        fetch_lock(lock, store, jobs=1)
    assert list(store.downloads.iterdir()) == []
