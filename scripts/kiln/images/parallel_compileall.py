"""Stands beside ``install.py`` as ``compileall.py``: compiles on all processors, to the same bytes.

Python writes a name into a ``.pyc`` as shared if anything else in the process has it, too. So the
bytes depend on what the compiling process holds, and a pool of processes gives others. Here every
part of the files is compiled in a fork of one and the same process, which holds what it holds
without this module: each name below occurs in Python's own start, too. Which files a part has does
not depend on the number of processors.

Some sources leave something behind in the compiler's process, such as a module that it loaded for
the names of characters. The process itself compiles those, between the forks for what comes before
and after them.
"""

import marshal
import os
import re
import sys

path = sys.path.pop(0)
del sys.modules["compileall"]
import compileall  # noqa: E402

sys.path.insert(0, path)


def compile_dir(dir, **kwargs):
    file, args = compileall.compile_file, []
    compileall.compile_file = lambda *items, **values: not args.append((items, values))
    walk(dir, **kwargs)
    compileall.compile_file = file
    result, start = True, 0
    for end, (items, values) in enumerate(args):
        if loads(items[0]):
            result = run(args[start:end]) and result
            result = file(*items, **values) and result
            start = end + 1
    return run(args[start:]) and result


def loads(path):
    """Whether this source may leave something behind in the process that compiles it."""
    if path[-3:] != ".py":
        return False
    with open(path, "rb") as file:
        data = file.read()
    lines = b"\n".join(data.split(b"\n", 2)[:2])
    if re.search(rb"coding[:=]", lines) and not re.search(rb"(?i)coding[:=]\s*utf-?8\b", lines):
        return True
    # Names of characters, or characters that are to be normalized. (In two words: the name of the
    # module must not occur here.)
    found = b"\\N{" in data or not data.isascii()
    if found and "unicode-data".replace("-", "") not in sys.modules:
        return True
    # The first annotation that is kept as text makes Python keep some strings, braces among them.
    return b"annotations" in data and marshal.dumps("{")[:1] in b"z\xfa"


def run(args):
    """Compile files in forks of this process, as many at a time as there are processors."""
    count, result = 0, True
    for start in range(min(8, len(args))):
        if count == len(os.sched_getaffinity(0)):
            count, result = count - 1, wait() and result
        if not os.fork():
            for items, values in args[start::8]:
                result = compileall.compile_file(*items, **values) and result
            os._exit(not result)
        count += 1
    while count:
        count, result = count - 1, wait() and result
    return result


def wait():
    """Wait for a fork; whether it compiled all of its files."""
    status = os.wait()[1]
    if os.WIFSIGNALED(status):
        raise ChildProcessError
    return not status


walk = compileall.compile_dir
compileall.compile_dir = compile_dir
