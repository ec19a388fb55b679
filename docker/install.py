"""Runs inside an image while it is built, with its own Python (3.9 or later), without a network.

``environment PREFIX LOCK [--prune FILE]`` makes a virtual environment from the wheels in
``/build/wheels``, every one checked against the lock, removes what the prune file names and
everything that would differ from one build to the next, and compiles the modules.
``compile DIR...`` compiles only.
"""

import argparse
import compileall
import csv
import os
import pathlib
import py_compile
import shutil
import subprocess
import sys
import zipfile

BUILD = pathlib.Path("/build")
TOOLS = pathlib.Path("/tmp/kiln-tools")

#: Files that installers write about the installation rather than about the package.
MACHINE_MADE = ("direct_url.json", "uv_cache.json", "uv_build.json", "REQUESTED")


def main() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    environment = commands.add_parser("environment")
    environment.add_argument("prefix", type=pathlib.Path)
    environment.add_argument("lock", type=pathlib.Path)
    environment.add_argument("--prune", type=pathlib.Path)
    compile_ = commands.add_parser("compile")
    compile_.add_argument("folders", nargs="+", type=pathlib.Path)
    arguments = parser.parse_args()
    if arguments.command == "compile":
        compile_all(arguments.folders)
        return
    make_environment(arguments.prefix, arguments.lock)
    (site,) = arguments.prefix.glob("lib/python*/site-packages")
    if arguments.prune:
        prune(site, arguments.prune)
    forget_machine(site)
    compile_all([site])


def make_environment(prefix: pathlib.Path, lock: pathlib.Path) -> None:
    uv = unpack_tools() / "uv"
    variables = {
        **os.environ,
        "UV_CACHE_DIR": "/tmp/kiln-uv-cache",
        "UV_PYTHON_DOWNLOADS": "never",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        # Where the requirement that has no wheel finds its build backend.
        "PYTHONPATH": str(TOOLS),
    }
    subprocess.run(
        [
            uv,
            "venv",
            "--quiet",
            "--offline",
            "--no-project",
            "--python",
            pathlib.Path(sys.executable).resolve(),
            prefix,
        ],
        check=True,
        env=variables,
    )
    subprocess.run(
        [uv, "pip", "install", "--offline", "--no-index", "--find-links", BUILD / "wheels",
         "--no-deps", "--require-hashes", "--no-build-isolation", "--link-mode", "copy",
         "--python", prefix / "bin/python", "--requirement", lock],
        check=True,
        env=variables,
    )  # fmt: skip
    shutil.rmtree("/tmp/kiln-uv-cache")
    shutil.rmtree(TOOLS)


def unpack_tools() -> pathlib.Path:
    """The installer and the build backend, unpacked aside; returns the folder of programs."""
    programs = TOOLS / "bin"
    programs.mkdir(parents=True)
    for name in ("uv", "setuptools", "wheel"):
        (wheel,) = BUILD.glob(f"tools/{name}-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(TOOLS)
    (binary,) = TOOLS.glob("uv-*.data/scripts/uv")
    target = programs / "uv"
    binary.rename(target)
    target.chmod(0o755)
    return programs


def prune(site: pathlib.Path, listing: pathlib.Path) -> None:
    """Remove what the listing names; a pattern that matches nothing is an error, not a no-op."""
    for line in listing.read_text().splitlines():
        pattern = line.partition("#")[0].strip()
        if not pattern:
            continue
        found = sorted(site.glob(pattern))
        if not found:
            sys.exit(f"install: prune pattern {pattern!r} matches nothing")
        for path in found:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def forget_machine(site: pathlib.Path) -> None:
    """Remove what differs between builds, and make every RECORD say what is there, sorted."""
    for info in sorted(site.glob("*.dist-info")):
        for name in MACHINE_MADE:
            (info / name).unlink(missing_ok=True)
        record = info / "RECORD"
        with record.open(newline="") as stream:
            rows = sorted(row for row in csv.reader(stream) if (site / row[0]).exists())
        with record.open("w", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows(
                row for row in rows if not row[0].endswith(".pyc")
            )


def compile_all(folders: "list[pathlib.Path]") -> None:
    """Compile every module to a hash-based ``.pyc`` that Python never checks against its source.

    Time stamps in ``.pyc`` files, and set constants ordered by a random hash seed, are what makes
    them differ between builds; one process and a fixed seed make them the same. So does this
    program: a name that occurs in it, but nowhere in Python's own start, is marked as shared in the
    ``.pyc`` of a module that has it, too. An edit here may change ``.pyc`` files of every image.
    """
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(
            sys.executable, [sys.executable, "-B", *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"}
        )
    for folder in folders:
        for cache in sorted(folder.rglob("__pycache__")):
            shutil.rmtree(cache)
        compileall.compile_dir(
            folder,
            quiet=2,
            workers=1,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )


if __name__ == "__main__":
    main()
