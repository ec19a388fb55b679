"""The same cache in a folder and at a real S3 server: results, upkeep, objects."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cached_toys import MADE, Machine, file_objects, party, run_all, toy_plan
from s3_server import ENVIRONMENT, s3_server

from kiln.cache.address import parse_address
from kiln.cache.calls import Calls
from kiln.cache.objects import FsspecObjects, Objects
from kiln.cache.remote import ObjectCache, blob_name
from kiln.cache.upkeep import collect_garbage, statistics
from kiln.core.digest import sha256_bytes
from kiln.core.errors import CacheError

PLAN = toy_plan()
BUCKET = "results"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server(BUCKET) as address:
        yield address


@pytest.fixture(params=["file", "s3"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Objects:
    """An empty cache."""
    if request.param == "file":
        return file_objects(tmp_path / "cache")
    monkeypatch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("server"))
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return FsspecObjects(parse_address(f"s3://{BUCKET}/{tmp_path.name}"))


def calls() -> Calls:
    return Calls("the test's", patience=None)


def test_objects(place: Objects, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        place.read("a/b", 0, 10)
    assert place.listed("a") == []
    place.remove("a/b")
    place.write("a/b", b"0123456789")
    assert place.read("a/b", 0, 100) == b"0123456789"
    assert place.read("a/b", 2, 4) == b"23"
    with pytest.raises(FileExistsError):
        place.create("a/b", b"another")
    place.create("a/c", b"new")
    (tmp_path / "file").write_bytes(b"from a file")
    place.upload("a/d", tmp_path / "file")
    place.write("a/b", b"again")
    listed = {item.name: item for item in place.listed("a")}
    assert {name: item.size for name, item in listed.items()} == {"a/b": 5, "a/c": 3, "a/d": 11}
    assert all(abs(item.written - time.time()) < 60 for item in listed.values())
    place.remove("a/b")
    assert {item.name for item in place.listed("a")} == {"a/c", "a/d"}


def test_a_second_machine_runs_nothing(place: Objects, tmp_path: Path) -> None:
    first = Machine(tmp_path / "a", place)
    first.push(PLAN)
    assert first.notes == []
    other = Machine(tmp_path / "b", place)
    assert other.pull(PLAN) == []
    assert other.shared.received.results == len(PLAN.steps)
    for blob in {b for step in ("annotate", "check") for b in MADE[step].values()}:
        assert other.store.sound(sha256_bytes(blob))


def test_nothing_is_sent_twice(place: Objects, tmp_path: Path) -> None:
    first = Machine(tmp_path / "a", place)
    first.push(PLAN)
    assert first.shared.sent.contents == 6
    other = Machine(tmp_path / "b", place)
    other.push(toy_plan("other"))
    assert other.shared.sent.contents == 0
    assert other.shared.sent.results == 4


def test_statistics(place: Objects, tmp_path: Path) -> None:
    mine, theirs = party(tmp_path), party(tmp_path, "theirs")
    Machine(tmp_path / "a", place, mine).push(PLAN)
    Machine(tmp_path / "b", place, theirs).push(toy_plan("other"))
    found = statistics(ObjectCache(place), calls())
    assert mine.key is not None
    assert theirs.key is not None
    assert found.results.number == 8
    assert found.contents.number == 6
    assert {worker: count.number for worker, count in found.workers.items()} == {
        mine.key.key_id: 4,
        theirs.key.key_id: 4,
    }
    assert found.results.size == sum(count.size for count in found.workers.values())


def test_contents_that_no_result_names_are_removed(place: Objects, tmp_path: Path) -> None:
    machine = Machine(tmp_path / "a", place)
    machine.push(PLAN)
    lost = blob_name("7" * 64)
    place.write(lost, b"of a run that was killed")
    place.write("other/people's", b"file")
    cache = ObjectCache(place)
    young = collect_garbage(cache, calls())
    assert (young.results.number, young.contents.number) == (0, 0)
    gone = collect_garbage(cache, calls(), grace=0)
    assert (gone.results.number, gone.contents.number) == (0, 1)
    assert gone.remaining.number == 4 + 6
    assert lost not in {item.name for item in place.listed("blobs")}
    assert place.listed("other")
    assert Machine(tmp_path / "b", place).pull(PLAN) == []


def test_results_are_removed_by_age(tmp_path: Path) -> None:
    place = file_objects(tmp_path / "cache")
    Machine(tmp_path / "a", place).push(PLAN)
    for path in (tmp_path / "cache").rglob("*.*"):
        os.utime(path, (1, time.time() - 3600))
    Machine(tmp_path / "a", place).push(toy_plan("new"))
    cache = ObjectCache(place)
    trial = collect_garbage(cache, calls(), older_than=3000, grace=0, dry_run=True)
    assert (trial.results.number, trial.contents.number) == (4, 0)
    assert len(cache.results()) == 8
    graceful = collect_garbage(cache, calls(), older_than=3000, grace=4000)
    assert graceful.results.number == 0
    gone = collect_garbage(cache, calls(), older_than=3000, grace=0)
    assert (gone.results.number, gone.contents.number) == (4, 0)
    other = Machine(tmp_path / "b", place)
    assert other.pull(toy_plan("new")) == []
    assert other.pull(PLAN) == [*MADE]


def test_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    place = file_objects(tmp_path / "cache")
    monkeypatch.setattr(os, "link", refuse)
    place.create("leases/1", b"mine")
    with pytest.raises(FileExistsError):
        place.create("leases/1", b"theirs")
    assert [(item.name, item.size) for item in place.listed("")] == [("leases/1", 4)]


def test_results_are_removed_by_size(place: Objects, tmp_path: Path) -> None:
    Machine(tmp_path / "a", place).push(PLAN)
    cache = ObjectCache(place)
    whole = statistics(cache, calls())
    most = whole.results.size + whole.contents.size - 1
    gone = collect_garbage(cache, calls(), at_most=most, grace=0)
    assert 1 <= gone.results.number < 4
    assert gone.remaining.size <= most
    nothing = collect_garbage(cache, calls(), at_most=0, grace=0)
    assert nothing.remaining.number == 0
    assert place.listed("blobs") == place.listed("results") == []


def test_what_is_no_result_is_removed(place: Objects, tmp_path: Path) -> None:
    place.write(f"results/{'1' * 64}/{'2' * 64}.json", b"junk")
    assert collect_garbage(ObjectCache(place), calls(), grace=0).results.number == 1


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    place = file_objects(tmp_path / "cache")
    place.write("blobs/sha256/ab/x.gz.0011aabb.part", b"half")
    place.write("leases/1.json", b"{}")
    for path in (tmp_path / "cache").rglob("*.*"):
        os.utime(path, (1, 1))
    collect_garbage(ObjectCache(place), calls())
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_bucket_that_does_not_exist(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    machine = Machine(tmp_path / "a", FsspecObjects(parse_address("s3://no-such-bucket")))
    machine.push(PLAN)
    with machine.shared.turn(toy_plan("other"), lambda who: None):
        assert machine.pull(toy_plan("other")) == [*MADE]
    assert any("does not exist" in note for note in machine.notes)


def test_a_server_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # discard: nothing listens
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    machine = Machine(tmp_path / "a", FsspecObjects(parse_address("s3://results")))
    assert machine.pull(PLAN) == [*MADE]
    run_all(PLAN, machine.store)
    [note] = [note for note in machine.notes if "taken from it" in note]
    assert not any(value in note for value in ENVIRONMENT.values())


def test_upkeep_of_what_does_not_exist(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    for text in ("s3://no-such-bucket/x", f"file://{tmp_path}/none"):
        cache = ObjectCache(FsspecObjects(parse_address(text)))
        with pytest.raises(CacheError, match="does not exist"):
            statistics(cache, calls())
        with pytest.raises(CacheError, match="does not exist"):
            collect_garbage(cache, calls())
