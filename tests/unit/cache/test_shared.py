"""Results that travel between two machines: two stores, one cache, nothing run twice."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cached_toys import (
    MADE,
    Faulty,
    Machine,
    file_objects,
    full,
    party,
    read_only,
    run_all,
    signer_of,
    slow,
    toy_plan,
)

from kiln.cache import transit
from kiln.cache.remote import blob_name, result_name
from kiln.core.digest import sha256_bytes
from kiln.signing.trust import STAGE_RESULT

PLAN = toy_plan()
EVERYTHING = [*MADE]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A folder that a machine has sent all results of the plan to."""
    folder = tmp_path / "cache"
    Machine(tmp_path / "a", file_objects(folder)).push(PLAN)
    return folder


def test_a_second_machine_runs_nothing(tmp_path: Path, cache: Path) -> None:
    other = Machine(tmp_path / "b", file_objects(cache))
    assert other.pull(PLAN) == []
    first = Machine(tmp_path / "a", file_objects(cache)).store
    for step in PLAN.steps:
        assert other.store.remembered(step.key) == first.get_result(step.key)
    assert other.notes == ["toy: 4 results taken from the cache"]
    result = other.store.get_result(PLAN.step("annotate").key)
    assert result is not None
    assert other.store.read(result.files["labelmap.txt"].sha256, "it") == b"cat\n"


def test_only_files_that_are_needed_travel(tmp_path: Path, cache: Path) -> None:
    other = Machine(tmp_path / "b", file_objects(cache))
    assert other.pull(PLAN) == []
    for step_id in ("export", "convert"):  # records, of which the build's own record is made
        result = other.store.remembered(PLAN.step(step_id).key)
        assert result is not None
        assert not other.store.holds(result)
    assert other.shared.received.contents == 3


def test_what_has_to_run_gets_its_inputs(tmp_path: Path, cache: Path) -> None:
    for path in (cache / "results" / PLAN.step("convert").key).iterdir():
        path.unlink()
    other = Machine(tmp_path / "b", file_objects(cache))
    result = run_all(PLAN, Machine(tmp_path / "a", file_objects(cache)).store)[2]
    (cache / blob_name(result.files["labelmap.txt"].sha256)).unlink()
    # Without its label map, "annotate" runs; so does "convert", and reads the whole export.
    assert other.pull(PLAN) == ["convert", "annotate"]
    export = other.store.get_result(PLAN.step("export").key)
    assert export is not None


def test_a_plan_that_is_here_asks_nothing(tmp_path: Path, cache: Path) -> None:
    objects = Faulty(file_objects(cache), lambda what, name: None)
    machine = Machine(tmp_path / "a", objects)
    with machine.shared.turn(PLAN, lambda who: None):
        pass
    assert machine.shared.lacking(PLAN) == []
    assert objects.calls == []


def test_a_cold_cache_is_asked_once_for_each_step(tmp_path: Path) -> None:
    objects = Faulty(file_objects(tmp_path / "cache"), lambda what, name: None)
    machine = Machine(tmp_path / "a", objects)
    assert machine.pull(PLAN) == EVERYTHING
    assert machine.pull(PLAN) == EVERYTHING
    asked = [name for what, name in objects.calls if what == "read"]
    assert len(asked) == len(set(asked)) == len(PLAN.steps)


# --- trust -------------------------------------------------------------------------------------


def test_results_of_strangers_are_not_taken_and_told_once(tmp_path: Path, cache: Path) -> None:
    other = Machine(tmp_path / "b", file_objects(cache), party(tmp_path, "someone"))
    assert other.pull(PLAN) == EVERYTHING
    assert other.pull(toy_plan("other")) == EVERYTHING
    [note] = other.notes
    assert "signed by others" in note
    assert "KILN_CACHE_TRUST" in note


def test_results_of_those_who_are_trusted_are_taken(tmp_path: Path, cache: Path) -> None:
    them = signer_of(party(tmp_path))
    other = Machine(tmp_path / "b", file_objects(cache), party(tmp_path, "someone", them))
    assert other.pull(PLAN) == []


@pytest.mark.parametrize("rights", [{"models": ("another*",)}, {"may": ("release",)}])
def test_rights_of_a_trust_file_count(
    tmp_path: Path, cache: Path, rights: dict[str, object]
) -> None:
    them = replace(signer_of(party(tmp_path)), **rights)  # type: ignore[arg-type]
    other = Machine(tmp_path / "b", file_objects(cache), party(tmp_path, "someone", them))
    assert other.pull(PLAN) == EVERYTHING
    assert not other.shared._reading.aside


def test_a_result_under_the_name_of_someone_trusted_does_not_pass(
    tmp_path: Path, cache: Path
) -> None:
    """Whoever may write to the cache can put their results where mine are looked for."""
    mine, theirs = party(tmp_path), party(tmp_path, "stranger")
    Machine(tmp_path / "c", file_objects(cache), theirs).push(PLAN)
    assert mine.key is not None
    assert theirs.key is not None
    for step in PLAN.steps:
        forged = (cache / result_name(step.key, theirs.key.key_id)).read_bytes()
        (cache / result_name(step.key, mine.key.key_id)).write_bytes(forged)
    other = Machine(tmp_path / "b", file_objects(cache), mine)
    assert other.pull(PLAN) == EVERYTHING
    assert "something else than what was stored" in other.notes[0]


def test_a_result_of_another_key_does_not_pass(tmp_path: Path, cache: Path) -> None:
    """A whole, validly signed result, under the key of another step."""
    mine = party(tmp_path)
    assert mine.key is not None
    names = [result_name(step.key, mine.key.key_id) for step in PLAN.steps]
    (cache / names[2]).write_bytes((cache / names[1]).read_bytes())
    other = Machine(tmp_path / "b", file_objects(cache), mine)
    assert other.pull(PLAN) == ["annotate"]


def test_the_role_is_one_of_a_trust_file() -> None:
    from typing import get_args

    from kiln.signing.trust_file import Role

    assert STAGE_RESULT in get_args(Role)


# --- faults ------------------------------------------------------------------------------------


def changed(path: Path) -> None:
    data = transit_of(b"another content")
    path.write_bytes(data)


def transit_of(data: bytes) -> bytes:
    import gzip

    return gzip.compress(data)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(changed, id="other bytes"),
        pytest.param(lambda path: path.write_bytes(b"not gzip"), id="not gzip"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-9]), id="cut short"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes() + b"x"), id="longer"),
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(transit_of(bytes(80 << 20))), id="bomb"),
        pytest.param(Path.unlink, id="gone"),
    ],
)
def test_a_content_that_is_not_right_is_made_again_and_replaced(
    tmp_path: Path, cache: Path, damage: Callable[[Path], object]
) -> None:
    wrong = MADE["annotate"]["model.tflite"]
    place = cache / blob_name(sha256_bytes(wrong))
    damage(place)
    other = Machine(tmp_path / "b", file_objects(cache))
    assert other.pull(PLAN) == ["annotate"]
    assert not other.store.has(sha256_bytes(wrong))
    for result in run_all(PLAN, other.store, ["annotate"]):
        other.shared.offer(result)
    other.shared.finish()
    third = Machine(tmp_path / "c", file_objects(cache))
    assert third.pull(PLAN) == []
    assert third.store.sound(sha256_bytes(wrong))


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"a": 1e999}', b"x" * (5 << 20)])
def test_a_result_that_is_none_is_not_taken(tmp_path: Path, cache: Path, text: bytes) -> None:
    for path in (cache / "results" / PLAN.step("annotate").key).iterdir():
        path.write_bytes(text)
    assert Machine(tmp_path / "b", file_objects(cache)).pull(PLAN) == ["annotate"]


def test_a_cache_that_lies_every_time_is_left_aside(tmp_path: Path, cache: Path) -> None:
    def lie(what: str, name: str) -> bytes | None:
        return b"lies" if what == "read" else None

    objects = Faulty(file_objects(cache), lie)
    other = Machine(tmp_path / "b", objects)
    assert other.pull(PLAN) == EVERYTHING
    before = len(objects.calls)
    assert other.pull(toy_plan("other")) == EVERYTHING
    assert len(objects.calls) == before
    [note] = other.notes
    assert "no more results are taken from it" in note


@pytest.mark.parametrize("fault", [full, read_only], ids=["full", "read-only"])
def test_a_cache_that_takes_nothing_still_gives(
    tmp_path: Path, cache: Path, fault: Callable[[str, str], None]
) -> None:
    other = Machine(tmp_path / "b", Faulty(file_objects(cache), fault))
    other.push(toy_plan("other"))
    with other.shared.turn(toy_plan("third"), lambda who: None):
        pass
    assert other.pull(PLAN) == []
    sent = [note for note in other.notes if "no more results are sent" in note]
    assert len(sent) == 1
    assert not any("secret" in note for note in other.notes)


def test_a_cache_that_hangs_costs_one_deadline(tmp_path: Path, cache: Path) -> None:
    release = threading.Event()

    def hang(what: str, name: str) -> None:
        release.wait(60)

    other = Machine(tmp_path / "b", Faulty(file_objects(cache), hang), deadline=0.5)
    start = time.monotonic()
    with other.shared.turn(PLAN, lambda who: None):
        assert other.pull(PLAN) == EVERYTHING
        assert other.pull(toy_plan("other")) == EVERYTHING
    took = time.monotonic() - start
    release.set()
    assert 0.5 <= took < 3
    assert "did not answer within" in other.notes[0]


def test_a_slow_cache_is_asked_for_several_things_at_a_time(tmp_path: Path, cache: Path) -> None:
    other = Machine(tmp_path / "b", Faulty(file_objects(cache), slow(0.4)))
    start = time.monotonic()
    assert other.pull(PLAN) == []  # seven requests, in two rounds
    assert time.monotonic() - start < 1.6


def test_a_cache_that_goes_away_in_the_middle(tmp_path: Path, cache: Path) -> None:
    def vanish(what: str, name: str) -> None:
        if name.startswith("blobs/"):
            raise ConnectionResetError("secret")

    other = Machine(tmp_path / "b", Faulty(file_objects(cache), vanish))
    assert other.pull(PLAN) == EVERYTHING
    assert "cannot be reached" in other.notes[0]
    assert "secret" not in "".join(other.notes)


def test_a_folder_that_is_not_mounted_is_not_made(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    objects = file_objects(folder)
    folder.rmdir()
    machine = Machine(tmp_path / "a", objects)
    machine.push(PLAN)
    assert not folder.exists()
    assert "does not exist" in machine.notes[0]
    assert machine.pull(toy_plan("other")) == EVERYTHING


def test_nothing_half_written_is_seen(tmp_path: Path) -> None:
    """A machine that is killed while it sends: contents may be there, the result is not."""

    def die(what: str, name: str) -> None:
        if name.startswith("results/"):
            raise ConnectionAbortedError

    folder = tmp_path / "cache"
    Machine(tmp_path / "a", Faulty(file_objects(folder), die)).push(PLAN)
    assert [*folder.glob("blobs/**/*.gz")]
    assert Machine(tmp_path / "b", file_objects(folder)).pull(PLAN) == EVERYTHING


# --- the way -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 5, 1 << 20, (1 << 20) + 1, 3_333_333])
@pytest.mark.parametrize("kind", ["zeros", "noise"])
def test_contents_travel_as_one_member_of_gzip(tmp_path: Path, size: int, kind: str) -> None:
    import gzip
    import random

    data = bytes(size) if kind == "zeros" else random.Random(1).randbytes(size)
    (tmp_path / "source").write_bytes(data)
    packed = transit.pack(tmp_path / "source", tmp_path / "packed")
    travelled = (tmp_path / "packed").read_bytes()
    assert len(travelled) == packed <= transit.most_packed(size)
    assert gzip.decompress(travelled) == data
    assert b"".join(transit.unpack(lambda a, b: travelled[a:b], size)) == data


_SENDER = """
import sys
from pathlib import Path
from cached_toys import Machine, file_objects, toy_plan
Machine(Path(sys.argv[1]), file_objects(Path(sys.argv[2]))).push(toy_plan())
"""


def test_a_machine_that_is_killed_while_it_sends(tmp_path: Path) -> None:
    """At any moment: what is there is right, and others go on from it."""
    folder = tmp_path / "cache"
    folder.mkdir()
    party(tmp_path)
    for number in range(4):
        sender = subprocess.Popen(
            [sys.executable, "-c", _SENDER, tmp_path / "a", folder],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        deadline = time.monotonic() + 30
        # The more is there, the later it is killed.
        while len([*folder.rglob("*.*")]) <= 3 * number and time.monotonic() < deadline:
            time.sleep(0.001)
        sender.kill()
        sender.wait()
        other = Machine(tmp_path / f"b{number}", file_objects(folder))
        lacking = other.pull(PLAN)
        assert not other.shared._wrong
        for result in run_all(PLAN, other.store, lacking):
            assert other.store.sound_among(b.sha256 for b in result.files.values())
    last = Machine(tmp_path / "c", file_objects(folder))
    last.push(PLAN)
    assert Machine(tmp_path / "d", file_objects(folder)).pull(PLAN) == []
