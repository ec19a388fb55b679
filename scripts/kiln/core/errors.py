"""Define the failures that users can meet, one class per kind.

Each class has its own process exit code, and every instance says what happened and what to
do next. ``kiln.cli`` prints both and exits with :attr:`KilnError.exit_code`; nothing else in
the package prints errors or exits.
"""

from __future__ import annotations

from typing import ClassVar


class KilnError(Exception):
    """Base of all failures.

    Args:
        message: what happened, one sentence, with the names that matter.
        remedy: what to do next, one or two sentences.
    """

    exit_code: ClassVar[int] = 1
    kind: ClassVar[str] = "error"

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class UsageError(KilnError):
    """The command line asks for something that does not exist or does not go together."""

    exit_code, kind = 2, "usage"


class RecipeError(KilnError):
    """A recipe cannot be read, or has contradictory or unknown values."""

    exit_code, kind = 10, "recipe"


class SourceUnavailableError(KilnError):
    """A download is not possible: no network, no such file, no mirror."""

    exit_code, kind = 11, "source-unavailable"


class DigestMismatchError(KilnError):
    """Bytes do not match their pinned digest."""

    exit_code, kind = 12, "digest-mismatch"


class ArchiveError(KilnError):
    """An archive is truncated, corrupt, or holds an entry that must not be unpacked."""

    exit_code, kind = 13, "archive"


class UnsupportedModelError(KilnError):
    """The model's architecture or configuration cannot be converted; the message says why."""

    exit_code, kind = 14, "unsupported-model"


class CheckpointError(KilnError):
    """The checkpoint is missing, incomplete, or does not fit the model."""

    exit_code, kind = 15, "checkpoint"


class LabelMapError(KilnError):
    """The label map cannot be read or does not fit the model's classes."""

    exit_code, kind = 16, "label-map"


class ImageSetError(KilnError):
    """Calibration or check images are missing or cannot be decoded."""

    exit_code, kind = 17, "image-set"


class UntrainedModelError(KilnError):
    """The model's prediction heads were never trained, and the recipe does not allow that."""

    exit_code, kind = 18, "untrained-model"


class CheckFailedError(KilnError):
    """A check of the converted model against its source failed."""

    exit_code, kind = 19, "check-failed"


class EngineUnavailableError(KilnError):
    """No container engine answers."""

    exit_code, kind = 20, "engine-unavailable"


class EngineFailedError(KilnError):
    """The engine answered, then failed or went away in the middle of the work."""

    exit_code, kind = 21, "engine-failed"


class ImageBuildError(KilnError):
    """An image could not be built."""

    exit_code, kind = 22, "image-build"


class ImageMismatchError(KilnError):
    """An image is not the one that ``docker/images.lock`` names."""

    exit_code, kind = 23, "image-mismatch"


class StageFailedError(KilnError):
    """A stage ended without a result, for a reason without its own class."""

    exit_code, kind = 24, "stage-failed"


class StageTimeoutError(KilnError):
    """A stage exceeded its time limit."""

    exit_code, kind = 25, "stage-timeout"


class StageOutOfMemoryError(KilnError):
    """A stage was killed for exceeding its memory limit."""

    exit_code, kind = 26, "stage-out-of-memory"


class StageOutputError(KilnError):
    """A stage wrote too much, or something that is refused: links, devices, odd names."""

    exit_code, kind = 27, "stage-output"


class CompilerError(KilnError):
    """An NPU's compiler crashed, ran too long, or wrote something else than the compiled model."""

    exit_code, kind = 28, "compiler"


class ClusterError(KilnError):
    """A cluster's scheduler does not answer or was lost, or none of its workers can do the work."""

    exit_code, kind = 29, "cluster"


class StoreError(KilnError):
    """The store is damaged or cannot be used."""

    exit_code, kind = 30, "store"


class DiskFullError(KilnError):
    """No space left where kiln writes."""

    exit_code, kind = 31, "disk-full"


class SystemRefusedError(KilnError):
    """The operating system refused a request: a name too long, too many open files, and so on."""

    exit_code, kind = 32, "system"


class CacheError(KilnError):
    """The remote cache (`KILN_CACHE`) cannot be reached, or refuses a request."""

    exit_code, kind = 33, "cache"


class SigningKeyError(KilnError):
    """The signing key is missing, unreadable, too open, or of the wrong kind."""

    exit_code, kind = 40, "signing-key"


class VerificationError(KilnError):
    """A signature, digest or file list is not valid."""

    exit_code, kind = 41, "verification"


class NotReproducedError(KilnError):
    """An artefact that was rebuilt from its provenance differs from the released one."""

    exit_code, kind = 42, "not-reproduced"


class CannotReproduceError(KilnError):
    """Something that an artefact was made from, or with, is no longer available."""

    exit_code, kind = 43, "cannot-reproduce"


class PartialBuildError(KilnError):
    """Some models were built and some were not; each failure was reported separately."""

    exit_code, kind = 50, "partial-build"


class CancelledError(KilnError):
    """The user stopped the work (Ctrl-C, SIGTERM)."""

    exit_code, kind = 130, "interrupted"


class OutputClosedError(KilnError):
    """The reader of the output has gone, as `head` does; the rest of it is lost."""

    # What a shell reports of a program that SIGPIPE ended, 128 + 13. Not 0, which promises that
    # all went well: of `kiln diff` that two files are the same, of `kiln verify --json` that every
    # event was delivered. Not 1, with which `kiln diff` says that they differ.
    exit_code, kind = 141, "output-closed"


def error_for_kind(kind: str) -> type[KilnError]:
    """Return the class whose :attr:`~KilnError.kind` is ``kind`` (stages report failures by kind).

    >>> error_for_kind("label-map").__name__
    'LabelMapError'
    >>> error_for_kind("never heard of").__name__
    'StageFailedError'
    """
    for cls in KilnError.__subclasses__():
        if cls.kind == kind:
            return cls
    return StageFailedError
