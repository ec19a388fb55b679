"""List folders backwards in every interpreter that has this file on its path.

The order of a folder's entries depends on the file system, so no result may depend on it. All of
Python's ways to list a folder (``os.walk``, ``pathlib``, ``glob``, ``shutil``) use these two.
"""

import os

_listdir, _scandir = os.listdir, os.scandir


class Listdir:
    """:func:`os.listdir`, last name first.

    Not a function: the standard library keeps it in a class, where a function would become a
    method.
    """

    def __call__(self, path="."):
        return sorted(_listdir(path), reverse=True)


class scandir:  # noqa: N801 (stands in for os.scandir)
    """:func:`os.scandir`, last name first."""

    def __init__(self, path="."):
        with _scandir(path) as entries:
            found = sorted(entries, key=lambda entry: entry.name, reverse=True)
        self._entries = iter(found)

    def __iter__(self):
        return self

    def __next__(self):
        return next(self._entries)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Drop the remaining entries, as the original does."""
        self._entries = iter(())


os.listdir, os.scandir = Listdir(), scandir
