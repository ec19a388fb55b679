"""What engines say of a mount whose source they do not have; that they do is integration tests'."""

from __future__ import annotations

from pathlib import Path

import docker.errors
import pytest

from kiln.running.visibility import bind, is_unmountable


def error(text: str) -> docker.errors.APIError:
    return docker.errors.APIError("500 Server Error", explanation=text)


@pytest.mark.parametrize(
    "text",
    [
        'invalid mount config for type "bind": bind source path does not exist: {}',
        'invalid mount config for type "bind": stat {}: permission denied',
        "statfs {}: no such file or directory",
        "Mounts denied: The path {} is not shared from the host and is not known to Docker.",
    ],
)
def test_a_source_that_only_this_machine_has(tmp_path: Path, text: str) -> None:
    assert is_unmountable(error(text.format(tmp_path)), [Path("/other"), tmp_path])
    # Nobody has this one: not the engine's fault.
    gone = tmp_path / "gone"
    assert not is_unmountable(error(text.format(gone)), [gone])


def test_a_comma_in_podman_s_text(tmp_path: Path) -> None:
    odd = tmp_path / "a, b"
    odd.mkdir()
    said = error("fill out specgen:  b: invalid mount option")
    assert is_unmountable(said, [odd])
    assert not is_unmountable(said, [tmp_path])


@pytest.mark.parametrize("text", ["No such image: toy:1", "out of order", ""])
def test_other_refusals(tmp_path: Path, text: str) -> None:
    assert not is_unmountable(error(text), [tmp_path])


def test_a_mount_is_of_the_kind_that_is_refused(tmp_path: Path) -> None:
    mount = bind(tmp_path, "/in", "ro")
    assert (mount["Type"], mount["ReadOnly"]) == ("bind", True)
    assert bind(tmp_path, "/out", "rw").get("ReadOnly", False) is False
