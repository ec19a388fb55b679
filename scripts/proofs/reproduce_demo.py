"""Release the samples, bundle the inputs, and rebuild them (``make reproduce-demo``).

1. Build every sample into a release, signed with the user's key, and pack all inputs into one
   bundle.
2. Remove all state: a new, empty store, no sealed images (each is in the bundle), no checkout, and
   no network.
3. Import the bundle and build every artefact again.
4. Verify the release with kiln and with independent programs.

    usage: python -m proofs.reproduce_demo [--work DIR] [--keep-images] [--models MODEL...]

Needs 7 GB for the bundle and the second store, which are removed at the end. The exit code is
that of the first command that fails.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from kiln.core.errors import EngineFailedError
from kiln.images.lock import Locked, read_lock
from kiln.images.transfer import present
from kiln.running.engine import Engine
from kiln.signing.statement_names import (
    PROVENANCE_SUFFIX,
    PROVENANCE_TYPE,
    RELEASE_BUNDLE,
    RELEASE_TYPE,
    TEST_RESULT_SUFFIX,
    TEST_RESULT_TYPE,
    provenance_path,
    result_path,
)
from shared import program

ROOT = Path(__file__).resolve().parents[2]
COSIGN = ROOT / ".tools" / "cosign"
KILN = (sys.executable, "-m", "kiln.cli")

#: Runs kiln where socket(2) fails for all but local sockets; needs no privileges.
_CUT_OFF = """\
import sys
from kiln.cli.main import main
from shared import no_network
why = no_network.refuse_network()
if why:
    sys.exit(f"reproduce-demo: {why}")
main()
"""


class FailedError(Exception):
    """A command failed; holds its exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def main() -> int:
    """Run the demonstration; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=ROOT / ".kiln" / "reproduce-demo")
    parser.add_argument("--keep-images", action="store_true", help="leave the engine's images")
    parser.add_argument("--models", nargs="*", default=[], help="these instead of all samples")
    options = parser.parse_args()
    work: Path = options.work.absolute()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    work.chmod(0o755)
    try:
        show(work, options.models, keep_images=options.keep_images)
    except FailedError as error:
        return error.code
    finally:
        for name in ("demo.tar", "empty-store"):
            remove(work / name)
    return 0


def show(work: Path, models: Sequence[str], *, keep_images: bool) -> None:
    """Run all steps, in order."""
    dist, bundle = work / "dist", work / "demo.tar"
    chosen = list(models) or ["--samples"]
    tell("A release, and all of its inputs in one file")
    run([*KILN, "build", *chosen, "--dist", dist])
    run([*KILN, "bundle", "create", *models, "-o", bundle, "--release", dist])

    tell("All state is removed: no store, no images, no checkout, no network")
    offline = without_network()
    if keep_images:
        print("The images stay in the engine (--keep-images).")
    else:
        remove_images()
    empty = {"KILN_STORE": str(work / "empty-store")}
    run([*offline, "bundle", "import", bundle], empty)
    # From here on only the release and the imported bundle exist.
    (work / "nowhere").mkdir()
    tell("Built again")
    run(
        [*offline, "reproduce", dist, "--keep", work / "differing"],
        {**empty, "KILN_PROJECT": str(work / "nowhere")},
    )

    tell("The release, verified by kiln and by independent programs")
    run([*KILN, "verify", dist], quiet=True)
    run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=dist)
    for folder in sorted(path.parent for path in dist.glob("*/model.sig")):
        signature = folder / "model.sig"
        run(
            [sys.executable, "-m", "model_signing", "verify", "key", folder,
             "--signature", signature, "--public_key", dist / "kiln.pub",
             "--ignore-paths", signature],
            quiet=True,
        )  # fmt: skip
    cosign(dist, work)
    tell("All artefacts have the same bytes, built from a bundle without a network")


# --- the emptied state -------------------------------------------------------------------------


def remove_images() -> None:
    """Remove the sealed images from the engine; each one is in the bundle.

    Raises:
        EngineFailedError: one could not be removed, for instance because it is in use.
    """
    engine = Engine.find()
    here = [locked for locked in read_lock(ROOT / "docker").values() if present(engine, locked)]
    # Children before parents.
    for locked in sorted(here, key=lambda item: item.name == "base"):
        print(f"removing {locked.tag} from the engine: the bundle brings it back", flush=True)
        with engine.failures(f"removing {locked.tag}"):
            engine.client.images.remove(locked.tag)
    left: list[Locked] = [locked for locked in here if present(engine, locked)]
    if left:
        raise EngineFailedError(
            f"The engine still holds {', '.join(item.tag for item in left)}.",
            "Something else names these images: look at `docker images`, or use --keep-images.",
        )


def without_network() -> list[str]:
    """Return a command that runs kiln with access to the engine's local socket only."""
    if urls := [value for value in (os.environ.get("DOCKER_HOST", ""),) if value.startswith("tcp")]:
        print(f"The engine is at {urls[0]}: kiln stays on the network to reach it.")
        return list(KILN)
    own = ["--net"] if os.getuid() == 0 else ["--map-current-user", "--net"]
    if shutil.which("unshare") and works(["unshare", *own, "true"]):
        print(f"kiln runs in a network namespace of its own: unshare {' '.join(own)}")
        return ["unshare", *own, *KILN]
    print("unshare(1) is not permitted here: kiln runs where socket(2) fails instead")
    return [sys.executable, "-c", _CUT_OFF]


# --- independent programs ------------------------------------------------------------------------


def cosign(dist: Path, work: Path) -> None:
    """Verify every bundle with cosign, if it is installed."""
    program = shutil.which("cosign") or (str(COSIGN) if COSIGN.is_file() else None)
    if program is None:
        print("cosign is not here, and is left out (`make test-tools` unpacks one).")
        return
    root = work / "none.json"
    root.write_text('{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}')
    common = [
        program, "verify-blob-attestation", "--key", str(dist / "kiln.pub"),
        "--new-bundle-format", "--trusted-root", str(root), "--insecure-ignore-tlog",
    ]  # fmt: skip
    wanted: list[tuple[Path, str, Path]] = []
    for file in sorted(dist.glob("*/*.tflite")):
        for place, kind in (
            (provenance_path(file.name), PROVENANCE_TYPE),
            (result_path(file.name), TEST_RESULT_TYPE),
        ):
            bundle = file.parent / place
            if bundle.is_file():
                wanted.append((bundle, kind, file))
    wanted.append((dist / RELEASE_BUNDLE, RELEASE_TYPE, dist / "SHA256SUMS"))
    for number, (bundle, kind, file) in enumerate(wanted):
        run([*common, "--bundle", bundle, "--type", kind, file], quiet=True, shown=number == 0)
    kinds = f"*{PROVENANCE_SUFFIX}, *{TEST_RESULT_SUFFIX}, {RELEASE_BUNDLE}"
    print(f"likewise all others: cosign accepts {len(wanted)} bundles ({kinds})")


# --- small things --------------------------------------------------------------------------------


def tell(text: str) -> None:
    """Print a headline."""
    print(f"\n== {text}", flush=True)


def run(
    command: Sequence[str | Path],
    environment: Mapping[str, str] | None = None,
    *,
    cwd: Path | None = None,
    quiet: bool = False,
    shown: bool = True,
) -> None:
    """Run a command and show it as typed; if ``quiet``, show its output only on failure.

    Raises:
        FailedError: it failed.
    """
    words = [str(word) for word in command]
    settings = "".join(f"{name}={value} " for name, value in (environment or {}).items())
    if shown:
        print(f"$ {settings}{readable(words)}", flush=True)
    begin = time.monotonic()
    ended = subprocess.run(
        words,
        env={**os.environ, **(environment or {})},
        cwd=cwd,
        check=False,
        capture_output=quiet,
        text=True,
    )
    if ended.returncode != 0:
        if quiet:
            print(ended.stdout + ended.stderr, file=sys.stderr)
        print(f"reproduce-demo: that ended with code {ended.returncode}", file=sys.stderr)
        raise FailedError(ended.returncode)
    if shown:
        print(f"  ({time.monotonic() - begin:.1f} s)", flush=True)


def readable(words: Sequence[str]) -> str:
    """Format a command, without this interpreter's path and options."""
    text = shlex.join(words)
    for said in (shlex.join(KILN), shlex.join([sys.executable, "-c", _CUT_OFF])):
        text = text.replace(said, "kiln")
    return text.replace(f"{shlex.quote(sys.executable)} ", "python ")


def works(command: Sequence[str]) -> bool:
    """Whether a command succeeds."""
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def remove(path: Path) -> None:
    """Remove a file or folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


if __name__ == "__main__":
    program.run_function(main, "reproduce-demo")
