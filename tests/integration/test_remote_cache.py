"""Real results at a real S3 server: a second machine, without an engine, makes the same release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from s3_server import ENVIRONMENT, s3_server
from support import SAMPLE, Kiln


def test_a_machine_without_an_engine_makes_the_same_release(sample: Any, fresh: Kiln) -> None:
    with s3_server("team") as address:
        environment = {"KILN_CACHE": "s3://team/kiln", "AWS_ENDPOINT_URL": address, **ENVIRONMENT}
        first: Kiln = sample.kiln.but(env=environment)
        second = fresh.but(env=environment, engine="unix:///nowhere/docker.sock")
        [pushed] = first("cache", "push", SAMPLE, "--json").ok().events
        assert pushed["results"] > 10
        ended = second("build", SAMPLE, "--json").ok()
        [pulled] = second("cache", "pull", SAMPLE, "--json").ok().events[-1:]
    assert {event["state"] for event in ended.events if event["event"] == "stage"} == {"cached"}
    assert pulled["missing"] == pulled["contents"] == 0
    made: Path = sample.folder
    again = second.dist / SAMPLE
    for path in sorted(made.glob("*.tflite")):
        assert (again / path.name).read_bytes() == path.read_bytes()
    assert (again / "conversion.json").read_bytes() == (made / "conversion.json").read_bytes()
    secret = ENVIRONMENT["AWS_SECRET_ACCESS_KEY"]
    for path in again.rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes()
    print(f"sent: {pushed['results']} results, {pushed['size'] / 1e6:.1f} MB")
