"""Write a release as flat files, for hosts without folders: one archive, and single files.

::

    tflite-kiln-<id>.tar    all of dist below a folder of that name: the same bytes every time
    <model>_<variant>.tflite, *.sigstore.json, kiln.pub    copies, for those who need just one
    SHA256SUMS              of these files, by their names here (the archive holds the release's)
"""

from __future__ import annotations

import re
from pathlib import Path

from kiln.core.deterministic_tar import TarEntry, deterministic_tar
from kiln.core.digest import sha256_file
from kiln.core.errors import UsageError
from kiln.core.files import aside_of, copy_file, disk_guard, remove, replace_tree
from kiln.core.listing import list_tree
from kiln.images.definition import SOURCE_DATE_EPOCH
from kiln.release.layout import KEY_FILE, SUMS_FILE

#: The archive's name starts with this, followed by the release's id.
NAME = "tflite-kiln"

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LOOSE = (".tflite", ".sigstore.json")


def write_archive(dist: Path, top: str, target: Path) -> None:
    """Write ``dist`` as an uncompressed tar: files only, by path, of one time and no owner.

    Args:
        top: the archive's top folder.

    Raises:
        DiskFullError: no space left; ``target`` does not exist then.
    """
    files = [TarEntry(path, file) for path, file in list_tree(dist).files.items()]
    with disk_guard(target), target.open("xb") as out:
        deterministic_tar(out, files, mtime=SOURCE_DATE_EPOCH, prefix=f"{top}/")


def write_assets(dist: Path, release_id: str, folder: Path) -> list[Path]:
    """Write the flat files of the verified release ``dist`` to ``folder``, and nothing else.

    Returns:
        The files, by name.

    Raises:
        UsageError: the id cannot be part of a file name, two files would have one name, or there
            is something else in ``folder``.
        StoreError, DiskFullError: it cannot be written; ``folder`` is unchanged.
    """
    if not _ID.fullmatch(release_id):
        raise UsageError(
            f"{release_id!r} cannot be the id of a release: it is part of a file's name.",
            "Use letters, digits, dots, hyphens and underscores only.",
        )
    top = f"{NAME}-{release_id}"
    flat: dict[str, Path] = {}
    for path, file in list_tree(dist).files.items():
        if path == KEY_FILE or path.endswith(_LOOSE):
            if file.name in flat:
                raise UsageError(
                    f"{path} and {flat[file.name].relative_to(dist)} have the same name.",
                    "Rename one of the models.",
                )
            flat[file.name] = file
    if folder.exists() and not (folder / SUMS_FILE).is_file() and any(folder.iterdir()):
        raise UsageError(
            f"{folder} holds other things than a release's assets.", "Name an empty folder."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = aside_of(folder)
    try:
        with disk_guard(folder):
            aside.mkdir()
            write_archive(dist, top, aside / f"{top}.tar")
            for name, file in flat.items():
                copy_file(file, aside / name)
            names = sorted(path.name for path in aside.iterdir())
            lines = [f"{sha256_file(aside / name)}  {name}\n" for name in names]
            (aside / SUMS_FILE).write_text("".join(lines), "utf-8")
        replace_tree(aside, folder)
    finally:
        remove(aside)
    return sorted(folder.iterdir())
