"""Run the command ``kiln``, also as ``python -m kiln.cli``."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line."""
    # Loading the commands takes a tenth of a second and leaves nothing to clean up: an interrupt
    # just ends the process, as it does before Python starts. (A shell that starts it in the
    # background makes it ignore interrupts; that stays so.)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from kiln.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
