"""Dockerfiles of ours are taken; whatever else a stranger's may say is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import DOCKER

from kiln.core.untrusted import MalformedError
from kiln.images.definition import load
from kiln.images.dockerfile import Step, check, read

BASE = (DOCKER / "base" / "Dockerfile").read_text()
CHILD = (DOCKER / "odapi" / "Dockerfile").read_text()
RUN = 'RUN ["/bin/rm", "-rf", "/build"]\n'


@pytest.mark.parametrize("name", load(DOCKER))
def test_ours_are_taken(name: str) -> None:
    found = load(DOCKER)[name]
    data = (found.folder / "Dockerfile").read_bytes()
    check(data, parent=found.parent is not None)
    with pytest.raises(MalformedError, match="where ours have"):
        check(data, parent=found.parent is None)


#: Lines that do more than ours do.
EVIL = [
    "ADD http://127.0.0.1:1/x /x",
    "ADD https://example.com/x.tar /",
    "ADD git@example.com:x.git /x",
    "ADD install.py /build/install.py",
    "ADD rootfs.tar /x",
    "ADD --checksum=sha256:0 rootfs.tar /",
    'ADD ["rootfs.tar", "/"]',
    "add rootfs.tar /",
    " ADD rootfs.tar /",
    "ADD  rootfs.tar /",
    "COPY --from=alpine / /",
    "COPY --from=0 / /",
    "COPY --chown=0:0 . /build/",
    "COPY --link . /build/",
    "COPY . build",
    "COPY .. /build/",
    f"COPY . /{'a' * 20_000}!",
    f"COPY . /{'a/' * 10_000}!",
    "COPY ../../etc/passwd /build/",
    "COPY /etc/passwd /build/",
    "COPY * /build/",
    "COPY one two /build/",
    'COPY [".", "/build/"]',
    "COPY <<EOF /x",
    "RUN curl http://127.0.0.1:1/x",
    "RUN /bin/rm -rf /build",
    'RUN ["/bin/sh", "-c", "id"]',
    'RUN ["/bin/bash", "-c", "id"]',
    'RUN ["/usr/bin/python3", "-c", "print()"]',
    'RUN ["/usr/bin/python3", "-B", "/build/other.py"]',
    'RUN ["/usr/bin/python3", "-B", "/build/install.py"] && id',
    'RUN ["/usr/bin/python3", "-B", "/build/install.py", "$(id)"]',
    'RUN ["/usr/bin/python3", "-B", "/build/install.py", "a b"]',
    "RUN ['/bin/rm', '-rf', '/build']",
    'RUN ["/bin/rm", "-rf", "/"]',
    'RUN --mount=type=bind,target=/host ["/bin/rm", "-rf", "/build"]',
    'RUN --network=host ["/bin/rm", "-rf", "/build"]',
    'RUN --security=insecure ["/bin/rm", "-rf", "/build"]',
    "RUN <<EOF",
    "FROM alpine",
    "FROM scratch",
    "FROM ${BASE} AS other",
    "ONBUILD RUN id",
    "USER root",
    "VOLUME /x",
    "EXPOSE 80",
    "HEALTHCHECK CMD id",
    'SHELL ["/bin/sh", "-c"]',
    "STOPSIGNAL 9",
    'ENTRYPOINT ["/bin/sh"]',
    "MAINTAINER x",
    "ARG http_proxy=http://127.0.0.1:1",
    "LABEL x=y",
    "ENV X ${Y}",
    "ENV X=${Y}",
    'ENV X="a b"',
    "ENV X=a\\ b",
    "ENV X y",
    "WORKDIR x",
    "WORKDIR /$X",
    "CMD id",
    'CMD ["/bin/sh", "-c", "a b"]',
    "# syntax=docker/dockerfile:1",
    "#escape=`",
    " # check=skip=all",
    "RUN\tid",
    "RUN\u00a0id",
    f"{RUN.strip()}\rRUN id",
    f"{RUN.strip()}\x0bRUN id",
    f"{RUN.strip()}\x00",
    f"{RUN.strip()} ",
    "INCLUDE Dockerfile.common",
    "ENV A=b \\",
    "ENV A=b \\\n\n    C=d",
    "ENV A=b \\\n# RUN\n    C=d",
    "ENV A=b \\ \n    C=d",
]


@pytest.mark.parametrize("line", EVIL)
@pytest.mark.parametrize("place", ["first", "in the middle", "last"])
@pytest.mark.parametrize("text", [BASE, CHILD], ids=["base", "child"])
def test_nothing_else_is_taken(text: str, place: str, line: str) -> None:
    if place == "first":
        evil = f"{line}\n{text}"
    elif place == "last":
        evil = f"{text}{line}\n"
    else:
        assert text.count(RUN) == 1
        evil = text.replace(RUN, f"{RUN}{line}\n")
    with pytest.raises(MalformedError):
        check(evil, parent=text is CHILD)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "FROM scratch\n",
        "FROM scratch\nADD rootfs.tar /\n",
        'FROM scratch\nLABEL org.tflite-kiln.owner="${OWNER}"\nARG OWNER=\n',
        BASE.replace("ARG OWNER=", "ARG OWNER=me"),
        BASE.replace("FROM scratch", "ARG BASE=scratch\nFROM scratch"),
        BASE.replace("FROM scratch", "FROM ${BASE}"),
        BASE.encode() + b"\xff",
        BASE + "#" * (32 << 10),
        BASE + RUN * 64,
    ],
    ids=range(10),
)
def test_what_ours_begin_with_has_to_be_there(text: str | bytes) -> None:
    with pytest.raises(MalformedError):
        check(text, parent=False)


def test_a_default_base_never_counts() -> None:
    """The driver names the base; a default is only a word for people."""
    assert "ARG BASE=" in CHILD
    check(CHILD.replace("ARG BASE=tflite-kiln/base:local\n", ""), parent=True)
    with pytest.raises(MalformedError):
        check(CHILD.replace("FROM ${BASE}", "FROM ${BASE}\nARG BASE=x"), parent=True)


@given(st.text(max_size=60))
def test_no_line_that_is_not_ours(line: str) -> None:
    """Whatever is put in is refused, but for comments and empty lines."""
    try:
        check(BASE + line, parent=False)
    except MalformedError:
        return
    assert all(not item or item.startswith("#") for item in line.split("\n"))


# --- read, to be built in one container --------------------------------------------------------

START = 'ARG OWNER=\nLABEL org.tflite-kiln.owner="${OWNER}"\n'
INSTALL = 'RUN ["/usr/bin/python3", "-B", "/build/install.py", "environment"]\n'
SMALL = f"FROM ${{BASE}}\n{START}COPY . /build/\n{INSTALL}{RUN}"


@pytest.mark.parametrize("name", load(DOCKER))
def test_ours_are_read(name: str) -> None:
    found = load(DOCKER)[name]
    recipe = read((found.folder / "Dockerfile").read_bytes(), parent=found.parent is not None)
    assert recipe is not None
    assert recipe.rootfs is (found.parent is None)
    for step in recipe.steps:
        assert step.command[:3] == ("/usr/bin/python3", "-B", "/build/install.py")
    assert recipe.environment["PATH"].endswith("/usr/local/bin:/usr/bin:/bin")


def test_settings_are_those_of_the_moment() -> None:
    text = (
        f"FROM ${{BASE}}\n{START}COPY . /build/\n{INSTALL}ENV A=1 B=\nWORKDIR /opt\n{INSTALL}{RUN}"
        'ENV A=2\nWORKDIR /tmp\nCMD ["/bin/true"]\n'
    )
    recipe = read(text, parent=True)
    assert recipe is not None
    command = ("/usr/bin/python3", "-B", "/build/install.py", "environment")
    assert recipe.steps == (Step(command, {}, "/"), Step(command, {"A": "1", "B": ""}, "/opt"))
    assert recipe.copies == ((".", ""),)
    parent = {"Env": ["A=0", "C=3"], "Cmd": ["/bin/sh"], "WorkingDir": "/x", "User": "me"}
    assert recipe.settings(parent) == {
        "Env": ["A=2", "C=3", "B="], "Cmd": ["/bin/true"], "WorkingDir": "/tmp",
    }  # fmt: skip
    small = read(SMALL, parent=True)
    assert small is not None
    assert small.settings(parent) == {key: parent[key] for key in ("Env", "Cmd", "WorkingDir")}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (RUN, ""),  # what the installer reads stays
        (RUN, f"{RUN}COPY x /build/x\n"),
        (RUN, f"{RUN}{INSTALL}{RUN}"),
        (INSTALL, ""),
        (INSTALL, "RUN id\n"),
        ("COPY . /build/", "COPY . /opt/"),
        ("COPY . /build/", "COPY . /builder/"),
        ("COPY . /build/", "COPY . /build/../opt/"),
        ("COPY . /build/", "COPY . /build"),
        ("COPY . /build/", "ADD rootfs.tar /\nCOPY . /build/"),
        ("FROM ${BASE}", "FROM scratch"),
    ],
)
def test_others_are_left_to_the_engine(old: str, new: str) -> None:
    assert read(SMALL, parent=True) is not None
    assert SMALL.count(old) == 1
    assert read(SMALL.replace(old, new), parent=True) is None


def test_a_root_file_system_comes_first() -> None:
    text = SMALL.replace("FROM ${BASE}", "FROM scratch")
    assert read(text, parent=False) is None
    first = text.replace("COPY", "ADD rootfs.tar /\nCOPY")
    assert read(first, parent=False) is not None
    assert read(first.replace(INSTALL, f"{INSTALL}ADD rootfs.tar /\n"), parent=False) is None
    assert read(text.replace(INSTALL, f"ADD rootfs.tar /\n{INSTALL}"), parent=False) is None
