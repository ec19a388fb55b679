"""The workflows: what they may do, and that their steps are what a person would run."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import ROOT
from release_parts import content, make_part, rows

from kiln.release import verify
from kiln.reproduce.verdict import Verdict
from kiln.signing import keys
from kiln.signing.signer import KeySigner
from kiln.signing.trust_file import load_policy

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

#: One make target, its variables, and where its output goes.
STEP = re.compile(
    r"(?:sudo )?make (?:--silent )?(?P<target>[a-z-]+)(?P<variables>(?: [A-Z]+=[\w/.-]+)*)"
    r'(?: (?:>> "\$GITHUB_(?:OUTPUT|STEP_SUMMARY)"|> [\w.]+))?'
)


@dataclass(frozen=True)
class Job:
    """One job of a workflow."""

    workflow: str
    name: str
    data: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.workflow}:{self.name}"

    @property
    def commands(self) -> list[str]:
        return [step["run"] for step in self.data["steps"] if "run" in step]

    @property
    def secrets(self) -> set[str]:
        return set(re.findall(r"\bsecrets\.(\w+)", yaml.safe_dump(self.data)))


def load(path: Path) -> dict[Any, Any]:
    found: dict[Any, Any] = yaml.safe_load(path.read_text("utf-8"))
    return found


def jobs() -> Iterator[Job]:
    for path in WORKFLOWS:
        for name, data in load(path)["jobs"].items():
            yield Job(path.stem, name, data)


JOBS = list(jobs())


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_nothing_by_itself(path: Path) -> None:
    found = load(path)
    assert found["permissions"] == {}
    assert "group" in found["concurrency"]
    assert not {"pull_request_target", "workflow_run"} & set(found[True])  # YAML's "on"


@pytest.mark.parametrize("job", JOBS, ids=str)
def test_a_job_says_what_it_may_and_how_long(job: Job) -> None:
    assert job.data["permissions"]
    assert 1 <= job.data["timeout-minutes"] <= 180
    for step in job.data["steps"]:
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_who_may_more_than_read() -> None:
    more = {
        (str(job), scope)
        for job in JOBS
        for scope, level in job.data["permissions"].items()
        if level != "read"
    }
    assert more == {
        ("release:build", "id-token"),
        ("release:collect", "id-token"),
        ("release:attest", "id-token"),
        ("release:attest", "attestations"),
        ("release:publish", "contents"),
        ("reproduce:issue", "issues"),
    }


def test_who_sees_the_key() -> None:
    """Only jobs of the protected environment that sign; none of them may write."""
    signing = [job for job in JOBS if job.secrets]
    assert {str(job) for job in signing} == {"release:build", "release:collect"}
    for job in signing:
        assert job.secrets == {"KILN_SIGNING_KEY_PEM", "KILN_SIGNING_KEY_PASSWORD"}
        assert job.data["environment"] == "release"
        assert set(job.data["permissions"]) == {"contents", "id-token"}
        steps = [step for step in job.data["steps"] if "secrets." in yaml.safe_dump(step)]
        assert all("run" in step for step in steps)


def test_a_release_takes_nothing_from_caches() -> None:
    assert "cache" not in (ROOT / ".github/workflows/release.yml").read_text().replace(
        "Nothing comes from a cache", ""
    )


def test_images_go_by_artifact_id() -> None:
    """Of one run, and with a digest that the download compares."""
    made = load(ROOT / ".github/workflows/release.yml")["jobs"]
    outputs = made["images"]["outputs"]
    assert outputs == {
        name: f"${{{{ steps.{name}.outputs.artifact-id }}}}"
        for name in ("odapi", "modelmaker", "device")
    }
    (taken,) = (
        step["with"]["artifact-ids"]
        for step in made["build"]["steps"]
        if "download-artifact" in step.get("uses", "")
    )
    assert all(f"needs.images.outputs.{name}" in taken for name in outputs)


def test_the_public_sees_a_release_last() -> None:
    made = load(ROOT / ".github/workflows/release.yml")["jobs"]
    needed: set[str] = set()
    stack = ["publish"]
    while stack:
        needs = made[stack.pop()].get("needs", [])
        new = ({needs} if isinstance(needs, str) else set(needs)) - needed
        needed |= new
        stack += new
    assert needed == set(made) - {"publish"}


# --- steps are make targets --------------------------------------------------------------------


def targets() -> set[str]:
    text = (ROOT / "Makefile").read_text("utf-8")
    return set(re.findall(r"^([a-z][a-z-]*):", text, re.MULTILINE))


def variables() -> set[str]:
    text = (ROOT / "Makefile").read_text("utf-8")
    return set(re.findall(r"^([A-Z]+) \?=", text, re.MULTILINE))


def used_targets() -> set[str]:
    return {found["target"] for job in JOBS for c in job.commands if (found := STEP.fullmatch(c))}


@pytest.mark.parametrize("job", [job for job in JOBS if job.commands], ids=str)
def test_every_step_is_a_make_target(job: Job) -> None:
    for command in job.commands:
        found = STEP.fullmatch(command)
        assert found, command
        assert found["target"] in targets()
        assert {word.split("=")[0] for word in found["variables"].split()} <= variables()


def test_the_readmes_two_commands_follow_each_other() -> None:
    """In one home: what the first leaves behind must not show in the second."""
    by_script = re.findall(r"^ *(make [a-z-]+)$", (ROOT / ".ci/run").read_text("utf-8"), re.M)
    (by_workflow,) = (job.commands for job in JOBS if str(job) == "ci:integration")
    for commands in (by_script, by_workflow):
        assert commands.index("make sample") < commands.index("make test") == len(commands) - 1


def test_every_target_of_a_workflow_is_run() -> None:
    """By what CI runs itself, or by a test of this project that calls make."""
    text = "".join(path.read_text("utf-8") for path in sorted((ROOT / "tests").rglob("test_*.py")))
    in_tests = set(re.findall(r"""\bmake\(\s*"([a-z-]+)\"""", text))
    makefile = (ROOT / "Makefile").read_text("utf-8")
    needs = {
        name: set(re.findall(r"[a-z-]+", rest.partition("##")[0]))
        for name, rest in re.findall(r"^([a-z][a-z-]*):(.*)$", makefile, re.MULTILINE)
    }
    by_ci = set(re.findall(r"^ *make ([a-z-]+)$", (ROOT / ".ci/run").read_text("utf-8"), re.M))
    run = in_tests | by_ci
    while True:
        more = set().union(*(needs.get(name, set()) for name in run)) - run
        if not more:
            break
        run |= more
    # `make dev` makes what `runtimes` does, and `make test` holds all that `unit` runs. `nightly`
    # takes an hour; what it would run is looked at in test_nightly.py.
    assert used_targets() - run - {"runtimes", "unit", "nightly"} == set()


# --- and are run -------------------------------------------------------------------------------


class Make:
    """Runs ``make`` in this checkout as a job does: settings in the environment."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.programs = root / "bin"
        self.programs.mkdir()
        self.environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith("MAKE")},
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "KILN_STORE": str(root / "store"),
            "XDG_CONFIG_HOME": str(root / "config"),
            "KILN_RELEASE": "v7",
        }

    def __call__(self, target: str, code: int = 0, **settings: str | Path) -> str:
        ended = subprocess.run(
            ["make", "--silent", target],
            cwd=ROOT,
            env={**self.environment, **{name: str(value) for name, value in settings.items()}},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == code, ended.stdout + ended.stderr
        return ended.stdout

    def gh(self, script: str) -> None:
        """Put a program in the place of gh; it gets its state from the folder ``GH``."""
        path = self.programs / "gh"
        path.write_text(f"#!/bin/sh\nset -eu\n{script}")
        path.chmod(0o755)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    if not (ROOT / ".venv" / ".dev").exists():
        pytest.skip("there is no .venv: `make dev` makes it")
    return Make(tmp_path)


def test_matrix(make: Make) -> None:
    name, _, text = make("matrix").partition("=")
    assert (name, text.count("\n")) == ("matrix", 1)
    fields = {"model", "image", "other_images", "variants"}
    assert all(fields == set(item) for item in json.loads(text)["include"])


def test_lint_workflows(make: Make) -> None:
    make("lint-workflows")


def test_collect_verify_and_notes(make: Make, tmp_path: Path) -> None:
    key = KeySigner(keys.load_or_create_key(tmp_path / "key.pem"))
    for model in ("alpha", "beta"):
        part = make_part(tmp_path / model, model, key)
        shutil.copytree(part, tmp_path / "parts" / f"part-{model}")
    places: Mapping[str, str | Path] = {
        "PARTS": tmp_path / "parts",
        "DIST": tmp_path / "dist",
        "ASSETS": tmp_path / "assets",
        "KILN_SIGNING_KEY": key.key.private_path,
        "TRUST": tmp_path / "trust",
        "POLICY": tmp_path / "trust" / "trust.toml",
    }
    make("trust-file", PUBLIC_KEY=key.public_pem.decode(), **places)
    make("collect", **places)
    make("verify", **places)
    text = make("notes", **places)
    assert len(rows(text)) == 4
    assert (tmp_path / "assets" / "tflite-kiln-v7.tar").is_file()
    assert len(verify.verify(tmp_path / "dist", key.public_pem).models) == 2


def test_trust_file(make: Make, tmp_path: Path) -> None:
    key = KeySigner(keys.load_or_create_key(tmp_path / "key.pem"))
    part = make_part(tmp_path / "alpha", "alpha", key)
    made = {"TRUST": tmp_path / "trust", "POLICY": tmp_path / "trust" / "trust.toml"}
    make("trust-file", 2, **made)  # nobody is named
    make("trust-file", 2, PUBLIC_KEY="no key", **made)
    pem = key.public_pem.decode()
    for text in (pem, pem.replace("\n", "\\n")):
        make("trust-file", PUBLIC_KEY=text, IDENTITY="x", ISSUER="y", **made)
        make("verify", DIST=part, **made)
    other = keys.load_or_create_key(tmp_path / "other.pem")
    make("trust-file", PUBLIC_KEY=other.public_pem.decode(), **made)
    make("verify", 2, DIST=part, **made)
    identity = 'https://github.com/me/"models"/.github/workflows/release.yml@refs/tags/*'
    make("trust-file", IDENTITY=identity, ISSUER="https://issuer.example", **made)
    (signer,) = load_policy(made["POLICY"]).signers
    assert (signer.identity, signer.issuer) == (identity, "https://issuer.example")


#: Enough of gh for one release: a folder ``GH/<tag>`` of assets, and ``GH/<tag>.draft``.
RELEASES = """
echo "$*" >> "$GH/calls"
case "$1 $2" in
    "release view")
        [ -d "$GH/$3" ] || exit 1
        case $5 in
            isDraft) [ -e "$GH/$3.draft" ] && echo true || echo false ;;
            assets) for f in "$GH/$3"/*; do echo "${f##*/} $(wc -c <"$f")"; done ;;
        esac ;;
    "release create") mkdir "$GH/$3"; touch "$GH/$3.draft"; cp "$9" "$GH/notes" ;;
    "release upload")
        tag=$3; shift 3
        for f in "$@"; do [ "$f" = --clobber ] || cp "$f" "$GH/$tag/"; done
        [ ! -e "$GH/lossy" ] || rm "$GH/$tag/b.tflite" ;;
    "release edit") [ "$4" = --draft=false ]; rm "$GH/$3.draft" ;;
    "release list") [ ! -d "$GH/v7" ] || echo v7 ;;
    "release download") cp "$GH/$3/$5" "$7" ;;
    *) exit 64 ;;
esac
"""


@pytest.fixture
def releases(make: Make, tmp_path: Path) -> Path:
    make.gh(RELEASES)
    state = tmp_path / "gh"
    state.mkdir()
    make.environment["GH"] = str(state)
    assets = tmp_path / "assets"
    assets.mkdir()
    for name in ("a.tflite", "b.tflite"):
        (assets / name).write_text(name * 3)
    with tarfile.open(assets / "tflite-kiln-v7.tar", "w") as tar:
        tar.add(assets / "a.tflite", "tflite-kiln-v7/toy/a.tflite")
    sums = subprocess.run(
        ["sha256sum", *sorted(content(assets))], cwd=assets, capture_output=True, check=True
    ).stdout
    (assets / "SHA256SUMS").write_bytes(sums)
    (tmp_path / "notes.md").write_text("What is new.\n")
    return state


def publish(make: Make, tmp_path: Path, code: int = 0) -> None:
    make("publish", code, ASSETS=tmp_path / "assets", NOTES=tmp_path / "notes.md")


def test_publish(make: Make, releases: Path, tmp_path: Path) -> None:
    publish(make, tmp_path)
    assert content(releases / "v7") == content(tmp_path / "assets")
    assert not (releases / "v7.draft").exists()
    assert (releases / "notes").read_text() == "What is new.\n"
    calls = (releases / "calls").read_text().splitlines()
    create, *_, edit = [line for line in calls if not line.startswith("release view")]
    assert create.startswith("release create v7 --draft --verify-tag")
    assert edit == "release edit v7 --draft=false"
    publish(make, tmp_path, code=2)  # public already


def test_an_incomplete_draft_stays_a_draft(make: Make, releases: Path, tmp_path: Path) -> None:
    (releases / "lossy").touch()
    publish(make, tmp_path, code=2)
    assert (releases / "v7.draft").exists()
    (releases / "lossy").unlink()
    publish(make, tmp_path)  # goes on with the draft
    assert not (releases / "v7.draft").exists()
    assert (releases / "calls").read_text().count("release create") == 1


def test_damaged_assets_make_no_draft(make: Make, releases: Path, tmp_path: Path) -> None:
    (tmp_path / "assets" / "b.tflite").write_text("something else")
    publish(make, tmp_path, code=2)
    assert not (releases / "calls").exists()


def test_fetch_release(make: Make, releases: Path, tmp_path: Path) -> None:
    assert make("fetch-release", RELEASE=tmp_path / "got") == "tag=\n"
    publish(make, tmp_path)
    assert make("fetch-release", RELEASE=tmp_path / "got") == "tag=v7\n"
    assert list(content(tmp_path / "got")) == ["tflite-kiln-v7/toy/a.tflite"]
    assert make("fetch-release", RELEASE=tmp_path / "named", TAG="v7") == "tag=v7\n"


#: Enough of gh for issues: ``GH/open`` holds the number of the open one.
ISSUES = """
echo "$1 $2" >> "$GH/calls"
case "$1 $2" in
    "issue list") [ ! -e "$GH/open" ] || cat "$GH/open" ;;
    "label create") ;;
    "issue create") [ ! -e "$GH/open" ]; echo 5 > "$GH/open"; cat "$8" > "$GH/text" ;;
    "issue comment") [ "$3" = 5 ]; cat "$5" > "$GH/text" ;;
    "issue close") [ "$3" = 5 ]; rm "$GH/open"; echo "$5" > "$GH/text" ;;
    *) exit 64 ;;
esac
"""


def test_one_issue_is_opened_added_to_and_closed(make: Make, tmp_path: Path) -> None:
    make.gh(ISSUES)
    state = tmp_path / "gh"
    state.mkdir()
    make.environment["GH"] = str(state)

    def calls(result: str) -> list[str]:
        (state / "calls").unlink(missing_ok=True)
        make("reproduce-issue", RESULT=result, REPRODUCED=tmp_path, RUN_URL="https://x.example/1")
        return (state / "calls").read_text().splitlines()

    assert calls("success") == ["issue list"]
    assert calls("failure") == ["issue list", "label create", "issue create"]
    assert "the run ended before anything was compared" in (state / "text").read_text()
    (tmp_path / "report.md").write_text("Two differ.\n")
    assert calls("failure") == ["issue list", "issue comment"]
    assert (state / "text").read_text() == "Two differ.\n\nRun: https://x.example/1\n"
    assert calls("success") == ["issue list", "issue close"]
    assert calls("success") == ["issue list"]


def verdict_fields() -> set[str]:
    """What the real command's events have."""
    source = inspect.getsource(Verdict.as_json)
    return set(re.findall(r'^ {12}"(\w+)":', source, re.MULTILINE))


def verdict(file: str, outcome: str, **more: Any) -> str:
    """An event of `kiln reproduce --json`."""
    fields = {"file": file, "verdict": outcome, "sha256": "abab", "rebuilt": "abab", **more}
    return json.dumps({"event": "verdict", **fields})


SAME = verdict("a.tflite", "identical", causes=[], missing=[])
OTHER = verdict("b|c", "differs", causes=[{"kind": "cpu", "text": "of an|other"}])
GONE = verdict("d", "cannot be rebuilt", missing=[{"name": "wheel", "uri": "https://a.example/w"}])
FAILED = '{"event": "error", "kind": "source-unavailable", "message": "Gone."}'


@pytest.mark.parametrize(
    ("lines", "code", "message", "words"),
    [
        ([SAME, SAME], 0, "2 identical", "| a.tflite | abab | abab | identical |"),
        ([SAME, OTHER], 2, "1 differs, 1 identical", r"- b\|c: cpu: of an\|other"),
        ([GONE], 2, "1 cannot be rebuilt", "d: wheel is missing; it was in https://a.example/w"),
        ([FAILED, '{"ev'], 2, "nothing compared", "**source-unavailable**: Gone."),
        ([SAME, FAILED], 2, "1 identical", "**source-unavailable**: Gone."),
        ([], 2, "nothing compared", "Nothing was compared."),
    ],
)
def test_the_report(
    make: Make, tmp_path: Path, lines: list[str], code: int, message: str, words: str
) -> None:
    (tmp_path / "events.jsonl").write_text("\n".join(lines))
    assert {"file", "verdict", "sha256", "rebuilt", "causes", "missing"} <= verdict_fields()
    shown = make("reproduce-report", code, REPRODUCED=tmp_path, TAG="v7")
    assert words in shown and "v7" in shown
    assert (tmp_path / "report.md").read_text() == shown
    badge = json.loads((tmp_path / "badge.json").read_text())
    assert badge["schemaVersion"] == 1
    assert badge["message"] == message
    assert (badge["color"] == "brightgreen") == (code == 0)
