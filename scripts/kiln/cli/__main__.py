"""Run the command ``kiln``, also as ``python -m kiln.cli``."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line."""
    # Importing the commands takes a tenth of a second and needs no cleanup: an interrupt just ends
    # the process, as it does before Python starts. (If a shell started it in the background, it
    # ignores interrupts; that stays so.)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from kiln.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
