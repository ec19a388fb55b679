"""Define the failures that a stage can report, by kind."""

from __future__ import annotations

import signal

KINDS = frozenset(
    {
        "unsupported-model",
        "checkpoint",
        "label-map",
        "image-set",
        "compiler",
        "stage-failed",
        "stage-out-of-memory",
        "disk-full",
    }
)


class StageError(Exception):
    """A failure that a user can understand and act on.

    Args:
        kind: one of :data:`KINDS`; the driver turns it into its own error class and exit code.
        message: what happened, one sentence, with the names that matter.
        remedy: what to do next.

    Raises:
        ValueError: ``kind`` is not one of :data:`KINDS`.
    """

    def __init__(self, kind: str, message: str, remedy: str = "") -> None:
        if kind not in KINDS:
            raise ValueError(f"unknown failure kind {kind!r}")
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.remedy = remedy

    def fields(self) -> dict[str, str]:
        """Return the fields of its event."""
        return {"kind": self.kind, "message": self.message, "remedy": self.remedy}


def death_of(code: int) -> StageError:
    """Describe a process that ended without a word.

    Args:
        code: its exit code; negative for a signal.
    """
    reason = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    kind = "stage-out-of-memory" if code == -signal.SIGKILL else "stage-failed"
    return StageError(kind, f"The process of this stage {reason}.")
