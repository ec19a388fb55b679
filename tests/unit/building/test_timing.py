from __future__ import annotations

from collections.abc import Iterator

from kiln.building.timing import Timings


def ticking(*times: float) -> Iterator[float]:
    yield from times


def test_nothing_ran() -> None:
    timings = Timings()
    timings.event("stage", model="toy", id="export", state="cached")
    timings.event("note", message="hello")
    assert timings.report() == ""


def test_stages_of_one_kind_are_one_column_and_the_wall_is_first_to_last() -> None:
    clock = ticking(10.0, 12.0, 12.5, 13.0, 20.0)
    timings = Timings(clock=lambda: next(clock))
    timings.event("stage", model="toy", id="export", state="started")
    timings.event("stage", model="toy", id="export", state="finished", seconds=2.0, peak_rss=1)
    for variant, seconds in (("int8", 0.5), ("float32", 7.0)):
        timings.event(
            "stage", model="toy", id=f"convert-{variant}", state="finished", seconds=seconds
        )
    timings.event("image", image="odapi", phase="done", detail="x", seconds={"build": 3.0})
    assert [line.split() for line in timings.report().splitlines()] == [
        ["image", "built,", "s", "fetch", "build", "seal", "all"],
        ["odapi", "-", "3.0", "-", "3.0"],
        [],
        ["stages", "run,", "s", "export", "convert", "wall"],
        ["toy", "2.0", "7.5", "3.0"],
    ]
