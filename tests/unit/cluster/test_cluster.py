"""A whole cluster on loopback: Dask's scheduler, workers and drivers are processes, over TLS.

Only containers are toys. The cluster is started once; the last tests take it apart.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import pytest
from patience import wait_until
from toy_cluster import ToyCluster, ended, lives, make_cluster
from toy_project import SEALED
from toy_stages import MODEL, VARIANTS, make_builder

from kiln.cluster.address import ClusterAddress
from kiln.cluster.driver import Cluster
from kiln.core.errors import CancelledError
from kiln.core.stage_result import StageResult
from kiln.core.store import Store
from kiln.project.closures import read_stage_code
from kiln.recipes.recipe import load
from kiln.recipes.selection import Selection
from kiln.recipes.steps import Files, Plan, lone_step
from kiln.running.limits import Limits


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ToyCluster]:
    cluster = make_cluster(tmp_path_factory.mktemp("cluster"), 2)
    yield cluster
    cluster.close()


@pytest.fixture
def fresh(cluster: ToyCluster) -> ToyCluster:
    cluster.forget()
    return cluster


def files(dist: Path) -> dict[str, bytes]:
    """What was published, without signatures and what they are over: each has its own time."""
    found = {}
    for path in sorted((dist / MODEL).rglob("*")):
        if path.suffix in (".tflite", ".txt", ".jpg"):
            found[path.relative_to(dist).as_posix()] = path.read_bytes()
    return found


def stages(events: list[dict[str, Any]], state: str) -> list[dict[str, Any]]:
    return [item for item in events if item["event"] == "stage" and item["state"] == state]


def test_the_same_bytes_as_on_one_machine(fresh: ToyCluster, tmp_path: Path) -> None:
    build = fresh.build(tmp_path / "far", *VARIANTS)
    assert build.code == 0, build.said()
    done = stages(build.events, "finished")
    assert done and {item["worker"] for item in done} <= {"w1", "w2"}
    assert len({item["id"] for item in done}) == len(done)
    assert stages(build.events, "started")
    assert fresh.containers()

    builder, _, _ = make_builder(fresh.project, Store(tmp_path / "store"), tmp_path / "near")
    recipe = load(fresh.project.models / MODEL / "recipe.toml")
    (alone,) = builder.build(Selection.of(recipe))
    assert alone.error is None
    assert len(done) == alone.stages_run
    far, near = files(tmp_path / "far"), files(tmp_path / "near")
    assert far == near
    assert sum(name.endswith(".tflite") for name in far) == 4

    count = len(fresh.containers())
    again = fresh.build(tmp_path / "far", *VARIANTS)
    assert again.code == 0
    assert not stages(again.events, "finished") and stages(again.events, "cached")
    assert len(fresh.containers()) == count


def test_two_drivers_on_one_store(fresh: ToyCluster, tmp_path: Path) -> None:
    with fresh.held():
        first = fresh.driver(tmp_path / "a")
        wait_until(fresh.containers)
        second = fresh.driver(tmp_path / "b")
    ends = [ended(first), ended(second)]
    assert [item.code for item in ends] == [0, 0]
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert len(fresh.containers()) == 2  # one for each of the two images


def test_what_two_ask_of_one_scheduler_runs_once(fresh: ToyCluster) -> None:
    """Two connections ask for one task, without the store's lock between them.

    One of them gives it up; it goes on for the other.
    """
    store = Store(fresh.root / "store")
    inputs = {"images": Files({"cat.png": store.add_bytes(b"cat")})}
    code = read_stage_code(fresh.project.stages)
    step = lone_step("previews", "previews", {}, inputs, image=SEALED.identity, code=code)
    plan = Plan("toy", "odapi", (step,), {}, ("previews",), SEALED.identity, code)
    told: list[list[tuple[str, str]]] = [[], [], []]
    settings = {f"distributed.comm.tls.{name}": path for name, path in fresh.tls().items()}
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(3) as pool:
        stack.enter_context(dask.config.set(settings))
        address = ClusterAddress(fresh.url)
        clusters = [
            stack.enter_context(Cluster(address, fresh.project, store, print)) for _ in told
        ]

        def run(number: int) -> dict[str, StageResult]:
            def tell(event: str, **fields: Any) -> None:
                told[number].append((event, fields.get("state", "")))

            executor = clusters[number].executor(tell)
            return executor.run(plan, Limits(), str, files=["previews"])

        for cluster in clusters:
            cluster.client()
        with fresh.held():
            runs = [pool.submit(run, number) for number in range(3)]
            wait_until(fresh.containers)
            wait_until(lambda: _waiting_for(clusters[0]) == 3)
            clusters[2].stop()
            with pytest.raises(CancelledError):
                runs[2].result()
            assert _waiting_for(clusters[0]) == 2
        first, second = (run.result() for run in runs[:2])
    assert first == second and list(first) == ["previews"]
    assert len(fresh.containers()) == 1
    assert ("stage", "finished") in told[0] and ("stage", "finished") in told[1]


def _waiting_for(cluster: Cluster) -> int:
    """How many drivers wait for the scheduler's task."""

    def count(dask_scheduler: Any) -> int:
        (task,) = dask_scheduler.tasks.values()
        return len(task.who_wants)

    found: int = cluster.client().run_on_scheduler(count)
    return found


def test_ctrl_c_stops_the_containers(fresh: ToyCluster, tmp_path: Path) -> None:
    with fresh.held():
        driver = fresh.driver(tmp_path / "dist")
        (container,) = wait_until(fresh.containers)
        start = time.monotonic()
        driver.send_signal(signal.SIGINT)
        wait_until(lambda: not lives(container))
        assert time.monotonic() - start < 5
        assert ended(driver).code == 130
    assert not (tmp_path / "dist").exists()


def test_a_killed_driver_leaves_no_container(fresh: ToyCluster, tmp_path: Path) -> None:
    with fresh.held():
        driver = fresh.driver(tmp_path / "dist")
        (container,) = wait_until(fresh.containers)
        driver.kill()
        wait_until(lambda: not lives(container))
        driver.wait()


def test_a_worker_without_an_engine_is_passed_over(fresh: ToyCluster, tmp_path: Path) -> None:
    (fresh.project.root / "break").touch()
    build = fresh.build(tmp_path / "dist")
    assert build.code == 0, build.said()
    (note,) = [item["message"] for item in build.events if "cannot" in item.get("message", "")]
    assert "No engine here." in note
    (sound,) = {item["worker"] for item in stages(build.events, "finished")}
    assert f"{MODEL}: {sound} cannot" not in note


def test_strangers_are_refused_with_the_reason(
    fresh: ToyCluster, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = fresh.build(tmp_path / "dist", KILN_STORE=str(tmp_path / "store"))
    assert other.code == 29
    assert "another store" in other.said() and "w1" in other.said()

    code = fresh.project.stages / "steps" / "compare.py"
    text = code.read_text()
    try:
        code.write_text(f"{text}\n# changed\n")
        changed = fresh.build(tmp_path / "dist")
    finally:
        code.write_text(text)
    assert changed.code == 29
    assert "stage code" in changed.said()
    assert not fresh.containers()


def test_a_store_each_and_a_cache_in_common(fresh: ToyCluster, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    cache = (tmp_path / "cache").as_uri()
    fresh.start_worker("far", KILN_STORE=str(tmp_path / "far"), KILN_CACHE=cache)
    try:
        fresh.ready("far")
        dist, own = tmp_path / "dist", str(tmp_path / "near")
        build = fresh.build(dist, KILN_STORE=own, KILN_CACHE=cache)
    finally:
        fresh.workers.pop("far").kill()
    assert build.code == 0, build.said()
    done = stages(build.events, "finished")
    assert done and {item["worker"] for item in done} == {"far"}
    assert sum(name.endswith(".tflite") for name in files(dist)) == 1


def test_without_its_certificate_nobody_gets_in(fresh: ToyCluster, tmp_path: Path) -> None:
    none = fresh.build(tmp_path / "dist", **dict.fromkeys(fresh.certificates, ""))
    assert none.code == 2
    assert "no certificate" in none.said()


def test_a_killed_worker_s_models_go_to_another(fresh: ToyCluster, tmp_path: Path) -> None:
    with fresh.held():
        driver = fresh.driver(tmp_path / "dist")
        (orphan,) = wait_until(fresh.containers)
        (busy,) = [
            name for name, process in fresh.workers.items() if _parent(orphan) == process.pid
        ]
        fresh.workers.pop(busy).kill()
        wait_until(lambda: len(fresh.containers()) == 2)
    build = ended(driver)
    assert build.code == 0, build.said()
    (left,) = fresh.workers
    assert {item["worker"] for item in stages(build.events, "finished")} == {left}


def test_a_lost_scheduler_is_told_and_the_next_run_goes_on(
    fresh: ToyCluster, tmp_path: Path
) -> None:
    assert fresh.scheduler is not None
    with fresh.held():
        driver = fresh.driver(tmp_path / "dist")
        (container,) = wait_until(fresh.containers)
        fresh.scheduler.kill()
        lost = ended(driver)
        wait_until(lambda: not lives(container))
    assert lost.code == 29
    assert "is lost" in lost.said() and "again" in lost.said()
    for process in fresh.workers.values():
        assert process.wait(30) == 29
    fresh.start_scheduler()
    fresh.start_dask_worker("w3")
    build = fresh.build(tmp_path / "dist")
    assert build.code == 0, build.said()
    assert {item["worker"] for item in stages(build.events, "finished")} == {"w3"}


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
