"""kiln.core.untrusted: what comes from outside is bounded before it is used."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from kiln.core import untrusted
from kiln.core.untrusted import MalformedError, parse_json, parse_json_object, parse_toml, read_file


def test_a_document_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b'{"a": [1, 2.5, "\\u00e9"]}')
    assert parse_json_object(read_file(tmp_path / "a")) == {"a": [1, 2.5, "é"]}
    assert parse_toml(b'a.b = "c"\nd = [1, 2]') == {"a": {"b": "c"}, "d": [1, 2]}


def test_what_is_no_plain_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "target").write_bytes(b"host")
    for name in ("fifo", "link"):
        with pytest.raises(MalformedError, match=r"is (not a plain file|a symbolic link)"):
            read_file(tmp_path / name)
    with pytest.raises(MalformedError):
        read_file(tmp_path)
    with pytest.raises(MalformedError):
        read_file(Path("/dev/zero"))


def test_a_link_to_a_plain_file_will_do_where_it_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "link").symlink_to("file")
    assert read_file(tmp_path / "link", links=True) == b"mine"
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "to-fifo").symlink_to("fifo")
    with pytest.raises(MalformedError, match="not a plain file"):
        read_file(tmp_path / "to-fifo", links=True)


def test_a_sparse_file_costs_nothing(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)  # that no machine would come back from
    with pytest.raises(MalformedError, match="larger than 100 bytes"):
        read_file(tmp_path / "sparse", 100)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "[" * 65 + "]" * 65,
        '{"a":' * 100 + "1" + "}" * 100,
        '{"a": 1, "a": 2}',
        "NaN",
        "1e999",
        "9" * 5000,
        '"\\ud800"',
        '{"\\ud800": 1}',
        "{",
        "",
        b"\xff\xfe",
        " " * (untrusted.MAX_BYTES + 1),
    ],
)
def test_json_that_would_hurt_later(text: str | bytes) -> None:
    with pytest.raises(MalformedError):
        parse_json(text)


def test_an_object_is_asked_for() -> None:
    with pytest.raises(MalformedError, match="not a JSON object"):
        parse_json_object("[]")
    assert parse_json("[" * 64 + "]" * 64)


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 5_000 + "]" * 5_000,
        "a = " + "9" * 5_000,
        ".".join(["a"] * 200_000) + " = 1",
        "x = inf",
        "a = 1\na = 2",
        b"\xff",
        "# " + "x" * untrusted.MAX_TOML_BYTES,
    ],
)
def test_toml_that_would_hurt_later(text: str | bytes) -> None:
    start = time.process_time()
    with pytest.raises(MalformedError):
        parse_toml(text)
    assert time.process_time() - start < 2


def test_dots_that_are_no_keys() -> None:
    text = f'a = "{"." * 200}"  # {"." * 200}\n# {"." * 200}'
    assert parse_toml(text) == {"a": "." * 200}


def test_the_slowest_toml_that_is_taken_is_fast() -> None:
    line = ".".join(["a"] * untrusted.MAX_TOML_PARTS)
    count = untrusted.MAX_TOML_BYTES // (len(line) + 10)
    text = "\n".join(f"{line}.b{n} = 1" for n in range(count))
    start = time.process_time()
    with pytest.raises(MalformedError):
        parse_toml(text)
    assert time.process_time() - start < 5
