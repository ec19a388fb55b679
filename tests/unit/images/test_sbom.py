"""What is in an image, as CycloneDX: against locks, packages and the schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from import_cost import also_imported
from packageurl import PackageURL
from packaging.utils import canonicalize_name
from places import ROOT
from toy_offline import DEBS, Ended, Offline, kiln, make_offline
from toy_packages import debian_package, wheel

from kiln.core.digest import sha256_bytes
from kiln.core.errors import ArchiveError, ImageMismatchError
from kiln.images.definition import load, recipe_digest
from kiln.images.lock import read_lock
from kiln.images.package_facts import debian_facts, python_facts
from kiln.images.sbom import make_sbom, outdated, refuse_outdated, sbom_path
from kiln.sources import debian, pypi

DOCKER = ROOT / "docker"
IMAGES = list(load(DOCKER))


def document(docker_dir: Path, image: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(sbom_path(docker_dir, image).read_bytes())
    return found


# -- those of the project -----------------------------------------------------------------------


@pytest.mark.parametrize("image", IMAGES)
def test_they_are_of_the_locks(image: str) -> None:
    """Exactly the locks' packages: names, versions, digests; nothing else."""
    debs: set[tuple[str, str, str]] = set()
    pins: list[pypi.Pin] = []
    item = load(DOCKER)[image]
    for part in [item, *([load(DOCKER)[item.parent]] if item.parent else [])]:
        if part.debian:
            debs |= {(p.name, p.version, p.sha256) for p in debian.read_lock(part.debian)}
        pins += [found for lock in part.wheels for found in pypi.read_lock(lock)]
    assert debs
    components = document(DOCKER, image)["components"]
    listed = {
        kind: {
            (c["name"], c["version"], c["hashes"][0]["content"])
            for c in components
            if c["purl"].startswith(f"pkg:{kind}/")
        }
        for kind in ("deb", "pypi")
    }
    assert listed["deb"] == debs
    allowed = {(str(canonicalize_name(p.name)), p.version): p.hashes for p in pins}
    assert {(name, version) for name, version, _ in listed["pypi"]} == set(allowed)
    assert all(digest in allowed[name, version] for name, version, digest in listed["pypi"])
    assert len(components) == len(listed["deb"]) + len(listed["pypi"])
    assert all(component["hashes"][0]["alg"] == "SHA-256" for component in components)
    assert outdated(DOCKER, image) == []


@pytest.mark.parametrize("image", IMAGES)
def test_they_hold_the_schema(image: str) -> None:
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(
        sbom_path(DOCKER, image).read_text("utf-8")
    )
    assert error is None, error


@pytest.mark.parametrize("image", IMAGES)
def test_they_speak_of_the_locked_image(image: str) -> None:
    found = document(DOCKER, image)
    locked = read_lock(DOCKER)[image]
    about = found["metadata"]["component"]
    assert about["bom-ref"] == locked.identity
    assert about["hashes"] == [{"alg": "SHA-256", "content": locked.identity[7:]}]
    values = {item["name"]: item["value"] for item in about["properties"]}
    assert values["tflite-kiln:layer"] == locked.layer
    created = json.loads(locked.config)["created"].replace("Z", "+00:00")
    assert found["metadata"]["timestamp"] == created
    refs = {item["bom-ref"] for item in found["components"]}
    edges = {item["ref"]: item.get("dependsOn", []) for item in found["dependencies"]}
    assert set(edges) == refs | {locked.identity}
    assert set(edges[locked.identity]) == refs
    assert all(set(others) <= refs for others in edges.values())
    for purl in refs:
        assert PackageURL.from_string(purl).to_string() == purl


def test_each_has_its_own_number() -> None:
    assert len({document(DOCKER, image)["serialNumber"] for image in IMAGES}) == len(IMAGES)


def test_known_packages_say_what_they_are() -> None:
    found = {item["name"]: item for item in document(DOCKER, "odapi")["components"]}
    assert {"license": {"id": "Zlib"}} in found["zlib1g"]["licenses"]
    assert found["libstdc++6"]["licenses"] == found["gcc-10-base"]["licenses"]  # a shared folder
    numpy = found["numpy"]["licenses"]
    assert any("BSD" in json.dumps(item) for item in numpy)
    python = sum(item["purl"].startswith("pkg:pypi/") for item in found.values())
    licensed = sum(
        "licenses" in item and item["purl"].startswith("pkg:pypi/") for item in found.values()
    )
    assert licensed == python > 20
    edges = {item["ref"]: item for item in document(DOCKER, "odapi")["dependencies"]}
    needs = edges[found["tensorflow-cpu"]["purl"]]["dependsOn"]
    assert found["numpy"]["purl"] in needs and found["protobuf"]["purl"] in needs
    assert found["libc6"]["purl"] in edges[found["dash"]["purl"]]["dependsOn"]


# -- how they are made --------------------------------------------------------------------------


@pytest.fixture
def offline(tmp_path: Path) -> Offline:
    return make_offline(tmp_path / "project", tmp_path / "store")


def test_made_from_packages(offline: Offline, tmp_path: Path) -> None:
    docker = offline.project.docker
    before = recipe_digest(docker, "odapi")
    data = make_sbom(docker, "odapi", offline.store)
    sbom_path(docker, "odapi").write_bytes(data)
    assert recipe_digest(docker, "odapi") == before
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(data.decode()) is None
    found = json.loads(data)
    by_name = {item["name"]: item for item in found["components"]}
    assert sorted(by_name) == ["toy-one", "toy-two", "toyc", "toylib"]  # the tools are not in it
    assert by_name["toyc"]["licenses"] == [{"license": {"id": "GPL-2.0-or-later"}}]
    assert by_name["toylib"]["licenses"] == by_name["toyc"]["licenses"]
    assert by_name["toylib"]["supplier"] == {"name": "Ann Toy"}
    assert by_name["toyc"]["hashes"][0]["content"] == sha256_bytes(DEBS["toyc"])
    assert by_name["toy-one"]["licenses"] == [{"license": {"id": "MIT"}}]
    assert by_name["toy-two"]["licenses"] == [{"expression": "MIT OR Apache-2.0"}]
    edges = {item["ref"]: item.get("dependsOn") for item in found["dependencies"]}
    assert edges[by_name["toylib"]["purl"]] == [by_name["toyc"]["purl"]]
    assert edges[by_name["toy-one"]["purl"]] == [by_name["toy-two"]["purl"]]
    again = make_offline(tmp_path / "elsewhere", tmp_path / "other-store")
    assert make_sbom(again.project.docker, "odapi", again.store) == data


def without(key: str) -> Callable[[dict[str, Any]], None]:
    def change(found: dict[str, Any]) -> None:
        del found[key]

    return change


def edit(**changes: object) -> Callable[[dict[str, Any]], None]:
    return lambda found: found["components"][0].update(changes)


WRONG: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "one missing": (lambda found: found["components"].pop(), "is missing"),
    "one more": (
        lambda found: found["components"].append(
            {**found["components"][0], "purl": "pkg:pypi/x@1"}
        ),
        "is in no lock",
    ),
    "another version": (edit(version="9"), "another file"),
    "another name": (edit(name="x"), "another file"),
    "another file": (edit(hashes=[{"content": "0" * 64}]), "another file"),
    "no digest": (edit(hashes=[]), "cannot be read"),
    "no components": (without("components"), "cannot be read"),
    "another image": (
        lambda found: found["metadata"]["component"].update({"bom-ref": "sha256:0"}),
        "the lock names",
    ),
}


@pytest.mark.parametrize(("change", "word"), WRONG.values(), ids=WRONG.keys())
def test_what_is_not_of_the_locks_is_told(
    offline: Offline, change: Callable[[dict[str, Any]], object], word: str
) -> None:
    docker = offline.project.docker
    assert outdated(docker, "odapi") == ["there is none"]
    path = sbom_path(docker, "odapi")
    path.write_bytes(make_sbom(docker, "odapi", offline.store))
    assert outdated(docker, "odapi") == []
    found = document(docker, "odapi")
    change(found)
    path.write_text(json.dumps(found))
    (problem,) = outdated(docker, "odapi")
    assert word in problem
    with pytest.raises(ImageMismatchError, match=r"sbom\.cdx\.json does not match the locks"):
        refuse_outdated(docker, ["odapi"])


def test_no_json(offline: Offline) -> None:
    sbom_path(offline.project.docker, "odapi").write_bytes(b"\xff{")
    assert "cannot be read" in outdated(offline.project.docker, "odapi")[0]


@pytest.mark.parametrize(
    ("fields", "licences"),
    [
        ("License: Apache-2.0\n", ("Apache-2.0",)),
        ("License: Apache 2.0\n", ("Apache 2.0",)),
        ("License: mit\n", ("MIT",)),
        ("License: GPL-2.0+\n", ("GPL-2.0-or-later",)),
        ("License: Net-SNMP\n", ("Net-SNMP",)),
        ("License-Expression: MIT AND Zlib\nLicense: BSD\n", ("MIT AND Zlib",)),
        (
            "License: UNKNOWN\nClassifier: License :: OSI Approved :: BSD License\n",
            ("BSD License",),
        ),
        ("License: " + "x" * 200 + "\nClassifier: License :: OSI Approved\n", ()),
        ("License: One\n        Two\nClassifier: License :: Public Domain\n", ("Public Domain",)),
        ("", ()),
    ],
)
def test_licences_of_python_packages(
    tmp_path: Path, fields: str, licences: tuple[str, ...]
) -> None:
    path = tmp_path / "x"
    path.write_bytes(wheel("x", "1", fields))
    assert python_facts(path, "x-1-py3-none-any.whl", python="3.9.2").licences == licences


@pytest.mark.parametrize(
    ("text", "licences"),
    [
        ("Format: x\n\nFiles: *\nLicense: Expat\n\nLicense:  GPL-2\n", ("GPL-2.0-only", "MIT")),
        ("Format-Specification: x\nLicense: Artistic or GFDL-1.2+\n text\n",
         ("Artistic-1.0-Perl OR GFDL-1.2-or-later",)),
        ("Format: x\nLicense: ( and MIT\n", ("( and MIT",)),
        ("Format: x\nLicense: Expat\nLicense: Zlib\n see /usr/share/common-licenses/GPL-2",
         ("GPL-2",)),  # not machine-readable: a paragraph has a field once
        ("Format: x\nLicense: LGPL-2.1+ and Zlib\n", ("LGPL-2.1-or-later AND Zlib",)),
        ("Format: x\nLicense: public-domain\n", ("public-domain",)),
        ("Format: x\nLicense:\n all of it\n", ()),
        ("/usr/share/common-licenses/GPL-2, /usr/share/common-licenses/BSD.", ("BSD", "GPL-2")),
        ("License: of no known format\n", ()),
    ],
)  # fmt: skip
def test_licences_of_debian_packages(tmp_path: Path, text: str, licences: tuple[str, ...]) -> None:
    path = tmp_path / "x.deb"
    payload = [("./usr/share/doc/x/copyright", text.encode())]
    path.write_bytes(debian_package("x", "Maintainer: X <x@x.example>\n", payload))
    assert debian_facts(path).licences == licences


def test_damaged_packages_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for data in (b"", b"PK\3\4", DEBS["toyc"][:200], b"\x1f\x8b" + bytes(50)):
        path.write_bytes(data)
        with pytest.raises(ArchiveError, match=r"^x is not a readable"):
            debian_facts(path)
        for name in ("x-1-py3-none-any.whl", "x-1.tar.gz"):
            with pytest.raises(ArchiveError, match=r"^x-1"):
                python_facts(path, name, python="3.9.2")


def test_the_command(offline: Offline) -> None:
    def sbom(*words: str) -> Ended:
        return kiln(offline, offline.store.root, "images", "sbom", *words)

    assert sbom("--check").returncode == ImageMismatchError.exit_code
    made = sbom()
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("written") == 3
    assert sbom().stdout.count("unchanged") == 3
    checked = sbom("--check", "odapi")
    assert (checked.returncode, checked.stdout) == (0, "Up to date: odapi\n")


def test_a_build_does_not_import_what_only_this_needs() -> None:
    heavy = ["cyclonedx", "debian.copyright", "license_expression"]
    modules = "kiln.building.build, kiln.cli.build, kiln.cli.images, kiln.cli.main"
    assert also_imported(modules, heavy) == []
