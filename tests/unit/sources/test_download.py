from __future__ import annotations

import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest
import requests
from local_server import Site, serving
from patience import wait_until
from small_disk import small_disk

from kiln.core.errors import (
    DigestMismatchError,
    DiskFullError,
    RecipeError,
    SourceUnavailableError,
    StoreError,
)
from kiln.core.store import Store
from kiln.sources import download as module
from kiln.sources import http
from kiln.sources.download import Download, fetch

DATA = random.Random(5).randbytes(700_000)
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def site() -> Iterator[Site]:
    with serving({"file": DATA}) as served:
        yield served


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BACKOFF", 0.01)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def wanted(*urls: str, sha256: str | None = DIGEST, size: int | None = len(DATA)) -> Download:
    return Download(urls, size, sha256, "the file")


def dead_url() -> str:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{held.getsockname()[1]}/file"


def test_download_and_not_again(store: Store, site: Site) -> None:
    calls: list[tuple[str, int, int | None]] = []
    found = fetch([wanted(site.url("file"))], store, on_progress=lambda *call: calls.append(call))
    assert found == {"the file": DIGEST}
    assert store.path(DIGEST).read_bytes() == DATA
    assert calls[0] == ("the file", 0, len(DATA))
    assert calls[-1] == ("the file", len(DATA), len(DATA))
    assert [call[1] for call in calls] == sorted(call[1] for call in calls)
    assert list(store.downloads.iterdir()) == []
    assert fetch([wanted(dead_url())], store) == {"the file": DIGEST}
    assert len(site.asked) == 1


def test_without_size_and_digest(store: Store, site: Site) -> None:
    found = fetch([wanted(site.url("file"), sha256=None, size=None)], store)
    assert found == {"the file": DIGEST}
    site.files["empty"] = b""
    found = fetch([wanted(site.url("empty"), sha256=None, size=None)], store)
    assert found == {"the file": hashlib.sha256(b"").hexdigest()}


def test_many_at_once_in_the_given_order(store: Store, site: Site) -> None:
    site.files = {f"f{n}": f"content {n}".encode() * n for n in range(40)}
    downloads = [
        Download((site.url(name),), len(data), hashlib.sha256(data).hexdigest(), name)
        for name, data in site.files.items()
    ]
    found = fetch(downloads, store, jobs=8)
    assert list(found) == list(site.files)
    assert {n: store.path(d).read_bytes() for n, d in found.items()} == site.files
    assert fetch([], store) == {}


@pytest.mark.parametrize("pinned", [True, False])
def test_a_broken_connection_is_resumed(store: Store, site: Site, pinned: bool) -> None:
    site.break_after = [300_000, 200_000]
    fetch([wanted(site.url("file"), sha256=DIGEST if pinned else None)], store)
    assert store.path(DIGEST).read_bytes() == DATA
    ranges = [asked for _, asked in site.asked]
    assert ranges[0] is None
    starts = [int(r.removeprefix("bytes=").removesuffix("-")) for r in ranges[1:] if r]
    assert len(starts) == 2
    assert 0 < starts[0] <= 300_000 < starts[1] <= 500_000


def test_a_server_without_ranges_starts_again(store: Store, site: Site) -> None:
    site.ignore_range = True
    site.break_after = [300_000]
    fetch([wanted(site.url("file"))], store)
    assert store.path(DIGEST).read_bytes() == DATA
    assert site.asked[1][1] is not None
    assert len(site.asked) == 2


def test_unpinned_bytes_are_not_joined_without_the_servers_word(store: Store, site: Site) -> None:
    site.etag = False
    site.break_after = [300_000]
    found = fetch([wanted(site.url("file"), sha256=None, size=None)], store)
    assert found == {"the file": DIGEST}
    assert [asked for _, asked in site.asked] == [None, None]


@pytest.mark.parametrize("size", [None, len(DATA)])
def test_a_file_that_changed_meanwhile_is_not_joined(
    store: Store, site: Site, size: int | None
) -> None:
    site.break_after = [300_000] * 4
    want = wanted(site.url("file"), sha256=None, size=size)
    site.statuses = []
    new = DATA[::-1]

    class ChangesError(Exception):
        pass

    def change(name: str, done: int, total: int | None) -> None:
        if done > 200_000:
            raise ChangesError

    with pytest.raises(ChangesError):
        fetch([want], store, on_progress=change)
    assert len(list(store.downloads.glob("*.part"))) == 1
    site.files["file"] = new
    site.break_after = []
    assert fetch([want], store) == {"the file": hashlib.sha256(new).hexdigest()}
    assert site.asked[-1][1] is not None  # it was asked with If-Range, and said no


def test_rotten_beginnings_are_replaced(store: Store, site: Site) -> None:
    (store.downloads / f"{DIGEST}.part").write_bytes(bytes(100_000))
    fetch([wanted(site.url("file"))], store)
    assert store.path(DIGEST).read_bytes() == DATA
    assert [asked for _, asked in site.asked] == ["bytes=100000-", None]


@pytest.mark.parametrize("size", [None, len(DATA)])
@pytest.mark.parametrize("have", [len(DATA), len(DATA) + 5])
def test_killed_after_the_last_byte(store: Store, site: Site, have: int, size: int | None) -> None:
    (store.downloads / f"{DIGEST}.part").write_bytes((DATA + b"extra")[:have])
    fetch([wanted(site.url("file"), size=size)], store)
    assert store.path(DIGEST).read_bytes() == DATA
    if have == len(DATA):  # not one byte more
        assert site.asked == ([] if size else [("file", f"bytes={have}-")])


def test_a_range_that_begins_elsewhere_is_not_joined(store: Store, site: Site) -> None:
    site.shift_range = 7
    site.break_after = [300_000]
    found = fetch([wanted(site.url("file"), sha256=None, size=None)], store)
    assert found == {"the file": DIGEST}
    assert [asked is None for _, asked in site.asked] == [True, False, True]


@pytest.mark.parametrize(
    "bad",
    [DATA[:-1] + b"?", DATA[:-1], DATA + b"?", b"<html>log in</html>"],
    ids=["changed", "short", "long", "page"],
)
@pytest.mark.parametrize("size", [None, len(DATA)])
def test_wrong_bytes_are_refused_and_removed(
    store: Store, site: Site, bad: bytes, size: int | None
) -> None:
    site.files["file"] = bad
    with pytest.raises(DigestMismatchError) as caught:
        fetch([wanted(site.url("file"), size=size)], store)
    text = caught.value.message
    assert "the file" in text
    assert "127.0.0.1" in text
    if size is None:
        assert DIGEST in text
        assert hashlib.sha256(bad).hexdigest() in text
    assert list(store.downloads.iterdir()) == []
    assert not store.has(DIGEST)
    assert len(site.asked) == 1


def test_the_next_mirror_helps(store: Store, site: Site) -> None:
    site.files["bad"] = bytes(len(DATA))
    urls = [dead_url(), site.url("none"), site.url("bad"), site.url("file")]
    assert fetch([wanted(*urls)], store) == {"the file": DIGEST}
    assert [path for path, _ in site.asked] == ["none", "bad", "file"]


def test_a_second_mirror_carries_on_where_the_first_stopped(store: Store, site: Site) -> None:
    with serving({"file": DATA}) as first:
        first.break_after = [200_000, 0, 0, 0, 0]
        fetch([wanted(first.url("file"), site.url("file"))], store)
    assert store.path(DIGEST).read_bytes() == DATA
    assert site.asked[0][1] not in (None, "bytes=0-")


def test_no_mirror_helps(store: Store, site: Site) -> None:
    with_password = site.url("none").replace("//", "//user:secret@")
    dead = dead_url()
    with pytest.raises(SourceUnavailableError) as caught:
        fetch([wanted(dead, with_password)], store)
    text = str(caught.value)
    assert "the file" in text
    assert f"{dead.split('/')[2]}: connection refused" in text
    assert "127.0.0.1" in text
    assert "HTTP 404" in text
    assert "secret" not in text
    assert caught.value.exit_code == 11
    with pytest.raises(SourceUnavailableError, match="no address is known"):
        fetch([wanted()], store)


def test_a_busy_server_is_asked_again_but_not_for_ever(store: Store, site: Site) -> None:
    site.statuses = [503, 429, 500]
    fetch([wanted(site.url("file"))], store)
    assert len(site.asked) == 4
    site.asked.clear()
    site.files["other"] = b"x"
    site.statuses = [503] * 50
    with pytest.raises(SourceUnavailableError, match="HTTP 503"):
        fetch([wanted(site.url("other"), sha256=None, size=None)], store)
    assert len(site.asked) == http.ATTEMPTS
    site.asked.clear()
    site.statuses = [403] * 50
    with pytest.raises(SourceUnavailableError, match="HTTP 403"):
        fetch([wanted(site.url("other"), sha256=None, size=None)], store)
    assert len(site.asked) == 1


@pytest.mark.parametrize(
    "value",
    ["99999999", "9" * 5000, "Fri, 31 Dec 9999 23:59:59 GMT", "Fri, 31 Dec 99999 23:59:59 GMT"],
)
def test_a_server_cannot_ask_for_any_pause(
    store: Store, site: Site, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setattr(http, "LONGEST_PAUSE", 0.2)
    site.statuses, site.retry_after = [503], value
    start = time.monotonic()
    fetch([wanted(site.url("file"))], store)
    assert time.monotonic() - start < 5
    assert len(site.asked) == 2


@pytest.mark.parametrize("date", [False, True])
def test_a_pause_that_a_server_asks_for_is_kept(store: Store, site: Site, date: bool) -> None:
    wanted_pause = 3 if date else 1  # a date has whole seconds
    site.statuses = [503]
    site.retry_after = (
        formatdate(time.time() + wanted_pause, usegmt=True) if date else str(wanted_pause)
    )
    start = time.monotonic()
    fetch([wanted(site.url("file"))], store)
    assert time.monotonic() - start > 1 - 0.05
    assert len(site.asked) == 2


@pytest.mark.parametrize("value", ["soon", "-5", "1e9", "nan", "0"])
def test_a_pause_that_makes_no_sense_is_ours(store: Store, site: Site, value: str) -> None:
    site.statuses, site.retry_after = [503] * 3, value
    fetch([wanted(site.url("file"))], store)
    assert len(site.asked) == 4


def test_a_pause_ends_when_the_work_is_stopped() -> None:
    stop = threading.Event()
    patience = http.Patience(stop)
    answer = requests.Response()
    answer.headers["Retry-After"] = "25"
    threading.Timer(0.1, stop.set).start()
    start = time.monotonic()
    assert not patience.wait(answer)
    assert time.monotonic() - start < 10


def test_a_connection_that_breaks_at_once_is_given_up(store: Store, site: Site) -> None:
    site.break_after = [0] * 50
    with pytest.raises(SourceUnavailableError, match="connection"):
        fetch([wanted(site.url("file"))], store)
    assert len(site.asked) == http.ATTEMPTS


def test_local_files(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "with space é"
    path.write_bytes(DATA)
    assert fetch([wanted(path.as_uri())], store) == {"the file": DIGEST}
    assert path.read_bytes() == DATA
    with pytest.raises(SourceUnavailableError, match="No such file"):
        fetch([wanted((tmp_path / "none").as_uri(), sha256="ab" * 32)], store)
    path.write_bytes(b"other")
    with pytest.raises(DigestMismatchError):
        fetch([wanted(path.as_uri(), sha256="ab" * 32)], store)
    assert list(store.downloads.iterdir()) == []


def test_addresses_that_are_none(store: Store) -> None:
    with pytest.raises(SourceUnavailableError, match="not an http"):
        fetch([wanted("ftp://example.invalid/file")], store)


def test_one_failure_stops_the_others_and_keeps_what_they_have(store: Store, site: Site) -> None:
    site.delay = 0.05
    slow = wanted(site.url("file"))
    missing = Download((site.url("none"),), None, None, "missing")
    with pytest.raises(SourceUnavailableError, match="missing"):
        fetch([slow, missing], store, jobs=2)
    assert not store.has(DIGEST)
    site.delay = 0
    assert fetch([slow], store) == {"the file": DIGEST}


def test_one_name_for_two_files(store: Store, site: Site) -> None:
    want = wanted(site.url("file"))
    with pytest.raises(RecipeError, match="'the file'"):
        fetch([want, wanted(site.url("other"))], store)
    assert fetch([want, want], store) == {"the file": DIGEST}


def test_the_same_file_under_two_names_comes_once(store: Store, site: Site) -> None:
    again = Download((site.url("file"),), len(DATA), DIGEST, "again")
    assert fetch([wanted(site.url("file")), again], store) == {"the file": DIGEST, "again": DIGEST}
    assert len(site.asked) == 1


def test_a_damaged_blob_is_fetched_again(store: Store, site: Site) -> None:
    fetch([wanted(site.url("file"))], store)
    store.path(DIGEST).chmod(0o644)
    store.path(DIGEST).write_bytes(b"short")
    fetch([wanted(site.url("file"))], store)
    assert store.path(DIGEST).read_bytes() == DATA


FETCHING = """
import sys
from pathlib import Path
from kiln.sources.download import Download, fetch
from kiln.core.store import Store
url, sha, size, root = sys.argv[1:]
def seen(name, done, total):
    print(done, flush=True)
fetch([Download((url,), int(size), sha, "the file")], Store(Path(root)), on_progress=seen)
"""


def fetching(site: Site, store: Store) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    args = [site.url("file"), DIGEST, str(len(DATA)), str(store.root)]
    return subprocess.Popen(
        [sys.executable, "-c", FETCHING, *args], stdout=subprocess.PIPE, env=env
    )


def test_killed_in_the_middle_the_next_run_carries_on(store: Store, site: Site) -> None:
    site.delay = 0.01
    with fetching(site, store) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) > 0:
                break
        process.send_signal(signal.SIGKILL)
    part = store.downloads / f"{DIGEST}.part"
    have = part.stat().st_size
    assert 0 < have < len(DATA)
    assert not store.has(DIGEST)
    site.delay = 0
    fetch([wanted(site.url("file"))], store)
    assert site.asked[-1] == ("file", f"bytes={have}-")
    assert store.path(DIGEST).read_bytes() == DATA
    assert list(store.downloads.iterdir()) == []


def test_two_processes_fetch_the_same_file_once(store: Store, site: Site) -> None:
    site.delay = 0.005
    with fetching(site, store) as one, fetching(site, store) as two:
        for process in (one, two):
            process.communicate()
            assert process.returncode == 0
    assert store.path(DIGEST).read_bytes() == DATA
    assert len(site.asked) == 1


def test_a_full_disk(tmp_path: Path, site: Site) -> None:
    with small_disk(tmp_path / "disk") as disk:
        store = Store(disk / "store")
        with pytest.raises(DiskFullError, match="downloads"):
            fetch([wanted(site.url("file"))], store)
        assert not store.has(DIGEST)
        assert len(site.asked) == 1
    # the same after space was made: the partial file must not be in the way
    with small_disk(tmp_path / "larger", "4m") as disk:
        assert fetch([wanted(site.url("file"))], Store(disk)) == {"the file": DIGEST}


def test_a_store_that_cannot_be_written(store: Store, site: Site) -> None:
    (store.downloads / f"{DIGEST}.part").mkdir()
    with pytest.raises(StoreError, match="the file"):
        fetch([wanted(site.url("file"))], store)


def test_stopping_from_the_main_thread(
    store: Store, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.delay = 0.5

    def interrupted(*args: object, **kwargs: object) -> None:
        wait_until(lambda: site.asked)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "wait", interrupted)  # where Ctrl-C meets the main thread
    with pytest.raises(KeyboardInterrupt):
        fetch([wanted(site.url("file"))], store)
    assert not store.has(DIGEST)  # all of it would have taken 21 s
    assert not [t.name for t in threading.enumerate() if t.name.startswith("download")]


def test_certificates_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text("")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)

    def used() -> object:
        session = http.make_session()
        settings = session.merge_environment_settings("https://x.invalid", {}, None, None, None)
        return settings["verify"]

    assert used() is True
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    assert used() is True
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    assert used() == str(bundle)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/other.pem")
    assert used() == "/other.pem"
