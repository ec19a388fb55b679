"""Ends that are none, and ends of the wrong kind."""

import os
import random
import signal
import subprocess
import sys
import time

from stages.plain import finish, folder, ours, say, write_report


def _done(seed: int) -> None:
    say("started")
    (folder() / "model.tflite").write_bytes(ours(random.Random(seed)))
    write_report()
    finish()


def code(number: int, seed: int, work: bool = True) -> int:
    """An exit code, with a sound result or without."""
    if work:
        _done(seed)
    else:
        say("started")
    return number


def killed(number: int, seed: int, work: bool = True) -> int:
    """Ended by a signal of its own."""
    if work:
        _done(seed)
    os.kill(os.getpid(), number)
    time.sleep(60)
    return 0


def never(how: str, seed: int, work: bool = True) -> int:
    """Goes on for good."""
    if work:
        _done(seed)
    else:
        say("started")
    if how == "sleep":
        time.sleep(10_000)
    elif how == "busy":
        while True:
            pass
    elif how == "stubborn":
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        while True:
            time.sleep(1)
    elif how == "stopped":
        # The first process of a container cannot stop itself; a child can, and is waited for.
        child = subprocess.Popen(
            [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"]
        )
        child.wait()
    elif how == "closed":
        os.close(1)
        os.close(2)
        time.sleep(10_000)
    elif how == "daemon":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(10000)"])
        return 0
    elif how == "daemon-own-session":
        subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(10000)"], start_new_session=True
        )
        return 0
    elif how == "daemon-swapping":
        subprocess.Popen(
            [sys.executable, "-c", "import time\nwhile True: time.sleep(0.01)"],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return 0
    return 0


def hungry(what: str, seed: int, work: bool = False) -> int:
    """Takes all there is of memory, processes, descriptors or scratch."""
    if work:
        _done(seed)
    else:
        say("started")
    if what == "memory":
        held = []
        while True:
            held.append(bytearray(os.urandom(1 << 20) * 8))
    if what == "processes":
        while True:
            try:
                if os.fork() == 0:
                    time.sleep(10_000)
            except OSError:
                break
        time.sleep(10_000)
    if what == "scratch":
        with open("/tmp/fill", "wb") as file:  # noqa: PTH123
            while True:
                file.write(b"\0" * (8 << 20))
    if what == "descriptors":
        held_files = []
        try:
            while True:
                held_files.append(open("/dev/null"))  # noqa: PTH123, SIM115
        except OSError:
            pass
    return 0
