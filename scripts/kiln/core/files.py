"""Write files atomically: a reader sees the old or the new content, never a mixture."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from kiln.core.errors import DiskFullError, KilnError, StoreError, SystemRefusedError
from kiln.core.lease import is_abandoned, tagged_name
from kiln.core.listing import printable

_FULL = {errno.ENOSPC, errno.EDQUOT}
# The folder is not empty again, or is not a folder any more.
_CHANGED = {errno.ENOTEMPTY, errno.ENOTDIR, errno.ELOOP, errno.EISDIR}
# As good as none: half-made files may have been removed again before this is checked.
_FEW_INODES = 8
_LONGEST_NAME = 300  # characters of a path that a message shows in full
_REMEDIES = {
    errno.ENAMETOOLONG: "Use a shorter name: a path has at most 4,095 bytes, each part of it 255.",
    errno.EMFILE: "Raise the limit of open files (`ulimit -n`), then run the command again.",
    errno.ENFILE: "Close other programs, or raise the system's limit of open files.",
    errno.EACCES: "Check who owns it, and its permissions.",
    errno.EPERM: "Check who owns it, and its permissions.",
    errno.EROFS: "Mount its file system so that it can be written, or name another folder.",
    errno.ELOOP: "Its symbolic links lead in a circle: correct them, or name another path.",
    errno.EIO: "The disk failed: check the system's log.",
}
_COPY_CHUNK = 4 << 20
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_AT_FDCWD = -100  # <fcntl.h>
_RENAME_EXCHANGE = 2  # <linux/fs.h>


@contextlib.contextmanager
def disk_guard(path: Path) -> Iterator[None]:
    """Convert "no space left" to DiskFullError.

    Args:
        path: where the body writes; it need not exist yet.

    Raises:
        DiskFullError: the body raised ENOSPC or EDQUOT. Every other exception passes unchanged.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise _disk_full(path, error) from error


def _disk_full(path: Path, error: OSError) -> DiskFullError:
    """Describe ENOSPC or EDQUOT while writing ``path``.

    The file system has no bytes left, or (also ENOSPC) no inodes: it holds its maximum of files.
    """
    place, about = _file_system(path)
    few = about is not None and about.f_files and about.f_favail < _FEW_INODES
    if error.errno == errno.ENOSPC and about is not None and few and about.f_bavail:
        return DiskFullError(
            f"No file can be made to write {path}: the file system of {place} has no free inodes.",
            "It holds as many files as it can, whatever their size. Remove some (`kiln clean` "
            "removes what can be made again), or set KILN_STORE to a folder on another one; then "
            "run again.",
        )
    free = "free space unknown"
    if about is not None:
        size = about.f_bavail * about.f_frsize
        free = f"{size / 1e6:.1f} MB free on the file system of {place}"
    if error.errno == errno.EDQUOT:
        free = f"a quota is used up; {free}"
    return DiskFullError(
        f"No space left to write {path} ({free}).",
        "Free some space (`kiln clean` removes what can be made again), or set KILN_STORE to "
        "a folder on a larger disk; then run again.",
    )


@contextlib.contextmanager
def system_guard() -> Iterator[None]:
    """Convert the operating system errors that no other code has handled.

    Raises:
        SystemRefusedError, DiskFullError: the body raised an OSError.
    """
    try:
        yield
    except OSError as error:
        raise _system_error(error) from error


def _system_error(error: OSError) -> KilnError:
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if name]
    if error.errno in _FULL:
        return _disk_full(Path(names[0] if names else "."), error)
    told = " and ".join(_shown(name) for name in names)
    why = error.strerror or str(error) or type(error).__name__
    return SystemRefusedError(
        f"{told}: {why}." if told else f"The operating system refused something: {why}.",
        _REMEDIES.get(error.errno or 0, "Fix that, then run the command again."),
    )


def _shown(name: str) -> str:
    """Make a path safe for a message: control characters escaped, the middle left out."""
    name = printable(name)
    return name if len(name) <= _LONGEST_NAME else f"{name[:80]}…{name[-80:]}"


def _file_system(path: Path) -> tuple[Path, os.statvfs_result | None]:
    """Return the nearest existing folder, and its file system's data."""
    for place in (path, *path.parents):
        with contextlib.suppress(OSError):
            return place, os.statvfs(place)
    return path, None


def make_private(folder: Path) -> None:
    """Create a folder and its missing parents with access only for this user, whatever the umask.

    Existing folders keep their permissions.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    for place in reversed(missing):
        place.mkdir(mode=0o700, exist_ok=True)
        place.chmod(0o700)  # a umask may have removed our own rights, too


def aside_of(path: Path) -> Path:
    """Return a fresh name next to ``path``, to write to before renaming.

    It carries the owner's tag, so that :func:`sweep_asides` can tell an abandoned one.
    """
    return path.with_name(f".{path.name[:100]}.{tagged_name()}.aside")


def sweep_asides(folder: Path) -> int:
    """Remove leftovers of killed processes in ``folder`` (not below); return how many."""
    removed = 0
    for path in folder.glob(".*.aside"):
        if is_abandoned(path):
            with contextlib.suppress(
                StoreError
            ):  # one that cannot be removed must not stop a command
                remove(path)
                removed += 1
    return removed


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write ``data`` to ``path`` atomically: written aside, synced, renamed, whatever the umask.

    Raises:
        DiskFullError: no space left; ``path`` is unchanged.
        OSError: any other failure; ``path`` is unchanged.
    """
    aside = aside_of(path)
    try:
        with disk_guard(path):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            fd = os.open(aside, flags, 0o600)
            try:
                os.fchmod(fd, mode)
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
                os.fsync(fd)
            finally:
                os.close(fd)
            aside.rename(path)
            sync_folder(path.parent)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """Open a stream to write ``path`` atomically: synced and renamed if the body succeeds.

    Raises:
        DiskFullError: no space left; ``path`` is unchanged, as after any exception of the body.
    """
    aside = aside_of(path)
    try:
        with disk_guard(path), aside.open("xb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        aside.replace(path)
        sync_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def copy_file(source: Path, target: Path, mode: int = 0o644) -> None:
    """Copy content to the new file ``target``, for scratch files: not synced, not atomic.

    Raises:
        DiskFullError, OSError: as :func:`write_atomic`; the unfinished copy is removed.
    """
    with disk_guard(target):
        try:
            with source.open("rb") as reader, target.open("xb") as writer:
                shutil.copyfileobj(reader, writer, _COPY_CHUNK)
                os.fchmod(writer.fileno(), mode)
        except FileExistsError:
            raise
        except BaseException:
            target.unlink(missing_ok=True)
            raise


def sync_file(path: Path) -> None:
    """Wait until a file's content is on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(folder: Path) -> None:
    """Wait until a folder's list of names is on the disk (where the file system can)."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(fd)


def remove(path: Path) -> None:
    """Remove a file, link or whole tree, however deep, also one whose folders were made unreadable.

    Nothing below ``path`` is followed by name. Missing things are fine.

    Raises:
        StoreError: something resists (another user's files).
    """
    try:
        for attempt in range(3):
            try:
                about = path.lstat()
                if stat.S_ISDIR(about.st_mode):
                    _remove_tree(path)
                else:
                    path.unlink(missing_ok=True)
                return
            except FileNotFoundError:  # someone else is removing it too
                if not os.path.lexists(path):
                    return
            except OSError as error:  # someone is still writing there
                if error.errno not in _CHANGED or attempt == 2:
                    raise
    except OSError as error:
        remedy = "Remove it by hand, as the user who owns it."
        if error.errno == errno.EROFS:
            remedy = "Mount its file system so that it can be written, or name another folder."
        raise StoreError(f"Cannot remove {path}: {error.strerror or error}.", remedy) from error


def _remove_tree(path: Path) -> None:
    """Empty and remove a folder without recursion and with two open descriptors at most.

    Folders in it are first moved up to just below ``path``, so that none ever lies deep: a path
    of a thousand levels is longer than any system call takes.
    """
    parent = os.open(path.parent, _OPEN_FOLDER)
    try:
        top = _open_folder(path.name, parent)
    finally:
        os.close(parent)
    try:
        pending = _empty_folder(top, top, keep_folders=True)
        while pending:
            name = pending.pop()
            with contextlib.suppress(FileNotFoundError):
                folder = _open_folder(name, top)
                try:
                    pending += _empty_folder(folder, top, keep_folders=False)
                finally:
                    os.close(folder)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    path.rmdir()


def _empty_folder(folder: int, top: int, *, keep_folders: bool) -> list[str]:
    """Remove everything but folders in ``folder``; return the folders' names below ``top``.

    Unless ``keep_folders``, they are moved there, under fresh names.
    """
    found = []
    with os.scandir(folder) as scan:
        entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in scan]
    for name, is_folder in entries:
        with contextlib.suppress(FileNotFoundError):
            if not is_folder:
                os.unlink(name, dir_fd=folder)
            elif keep_folders:
                found.append(name)
            else:
                found.append(_move_up(name, folder, top))
    return found


def _move_up(name: str, folder: int, top: int) -> str:
    fresh = f".{secrets.token_hex(8)}"
    try:
        os.rename(name, fresh, src_dir_fd=folder, dst_dir_fd=top)
    except PermissionError:  # to move a folder, one must be able to write in it
        os.close(_open_folder(name, folder))
        os.rename(name, fresh, src_dir_fd=folder, dst_dir_fd=top)
    return fresh


def _open_folder(name: str, parent: int) -> int:
    """Open a folder of ours to empty it, after giving ourselves all rights on it."""
    held = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        # Through /proc: fchmod does not accept such a descriptor, and chmod would need a name.
        with contextlib.suppress(OSError):
            Path(f"/proc/self/fd/{held}").chmod(0o700)
        return os.open(".", _OPEN_FOLDER, dir_fd=held)
    finally:
        os.close(held)


def count_files(folder: Path) -> int:
    """Count the files below ``folder``, as far as they can be listed."""
    count = 0
    pending = [folder]
    while pending:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as scan:
            for entry in scan:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))
                else:
                    count += 1
    return count


def replace_tree(new_dir: Path, dest_dir: Path) -> None:
    """Replace ``dest_dir`` with the prepared folder ``new_dir``, then remove the old one.

    On Linux the two are exchanged in one step, so that ``dest_dir`` is always complete, the old or
    the new. Elsewhere it is missing for an instant, never a mixture. A ``new_dir`` on another file
    system is copied next to ``dest_dir`` first. A ``dest_dir`` that is a symbolic link stays one:
    its target is replaced. Afterwards ``new_dir`` does not exist.

    Raises:
        StoreError: ``new_dir`` is not a folder, ``dest_dir`` is a file, or a step is not permitted;
            ``dest_dir`` is unchanged.
        DiskFullError: no space left; ``dest_dir`` is unchanged.
    """
    if not new_dir.is_dir() or new_dir.is_symlink():
        raise StoreError(f"{new_dir} is not a folder.", "This is a bug in kiln: please report it.")
    dest = dest_dir.resolve()
    if dest.exists() and not dest.is_dir():
        raise StoreError(f"{dest} is in the way: it is not a folder.", "Move it elsewhere.")
    prepared = new_dir
    try:
        with disk_guard(dest):
            dest.parent.mkdir(parents=True, exist_ok=True)
            sweep_asides(dest.parent)
            if new_dir.lstat().st_dev != dest.parent.stat().st_dev:
                prepared = aside_of(dest)
                _copy_tree(new_dir, prepared)
            _sync_tree(prepared)
            old = _swap(prepared, dest)
            sync_folder(dest.parent)
    except OSError as error:
        if prepared != new_dir:
            remove(prepared)
        raise StoreError(
            f"Cannot replace {dest}: {error.strerror or error}.",
            "Check who owns it and its parent folder.",
        ) from error
    except BaseException:
        if prepared != new_dir:
            remove(prepared)
        raise
    if old is not None:
        remove(old)
    if prepared != new_dir:
        remove(new_dir)


def _swap(prepared: Path, dest: Path) -> Path | None:
    """Move ``prepared`` to ``dest``; return where the old tree is now, None if there was none."""
    if not dest.exists():
        prepared.rename(dest)
        return None
    # The old tree gets a tagged name: if this process is killed before removing it, the next call
    # (or sweep) does.
    old = aside_of(dest)
    prepared.rename(old)
    try:
        if _exchange(old, dest):
            return old
        parked = aside_of(dest)
        dest.rename(parked)
        try:
            old.rename(dest)
        except BaseException:
            parked.rename(dest)
            raise
        return parked
    except BaseException:
        old.rename(prepared)
        raise


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where kernel, libc or file system cannot."""
    if sys.platform != "linux":
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    done = rename(
        _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), ctypes.c_uint(_RENAME_EXCHANGE)
    )
    if done == 0:
        return True
    code = ctypes.get_errno()
    if code in {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}:
        return False
    raise OSError(code, os.strerror(code), str(other))


def _copy_tree(source: Path, target: Path) -> None:
    # shutil.copytree collects errors without their errno, so a full disk would go unnoticed.
    target.mkdir()
    with os.scandir(source) as scan:
        for entry in scan:
            place = target / entry.name
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                place.symlink_to(Path(entry.path).readlink())
            elif stat.S_ISDIR(mode):
                _copy_tree(Path(entry.path), place)
            else:
                copy_file(Path(entry.path), place, stat.S_IMODE(mode))
    target.chmod(stat.S_IMODE(source.stat().st_mode))


def _sync_tree(folder: Path) -> None:
    with os.scandir(folder) as scan:
        for entry in scan:
            if entry.is_dir(follow_symlinks=False):
                _sync_tree(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                sync_file(Path(entry.path))
    sync_folder(folder)
