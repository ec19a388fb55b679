"""Fetch an archive with a checkpoint, such as those of the model zoo."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from kiln.core import git_lfs
from kiln.core.errors import CheckpointError
from kiln.recipes import pipeline_config
from kiln.recipes.contents import Contents
from kiln.recipes.source import ArchiveSource
from kiln.sources.fetcher import Fetched, Fetcher, Options
from kiln.sources.packed import Packed, archive_files, at_hand


class ArchiveFetcher(Fetcher[ArchiveSource]):
    """Fetches an :class:`~kiln.recipes.source.ArchiveSource`."""

    @property
    def packed(self) -> Packed:
        """The archive."""
        return Packed(
            model=self.recipe.name,
            url=self.source.url,
            root=self.source.root,
            git_blob_sha1=self.source.git_blob_sha1,
            mirrors=self.source.mirrors,
            sha256=self.source.sha256,
            files=self.source.files,
        )

    def at_hand(self) -> bool:
        """Whether the store holds the archive."""
        return at_hand(self.packed, self.store)

    def fetch(self, options: Options) -> Fetched:
        """Take the checkpoint, its configuration and the ready ``.tflite`` out of the archive.

        Raises:
            SourceUnavailableError, DigestMismatchError, ArchiveError: see
                :func:`kiln.sources.packed.archive_files`.
            UnsupportedModelError: the configuration's model cannot be converted.
            DamagedContentError: the store's copy of the configuration is damaged.
            CheckpointError: the archive does not hold what the recipe names.
            UsageError: there is no file ``options.archive``.
        """
        files, record = archive_files(self.packed, self.store, options)
        checkpoint, prebuilt = self._checkpoint(files), self._prebuilt(files)
        record |= {"files": dict(checkpoint), "prebuilt": prebuilt}
        return Fetched(Contents(checkpoint=checkpoint, prebuilt=prebuilt), record, files)

    def _checkpoint(self, files: Mapping[str, str]) -> dict[str, str]:
        """Select the configuration and the checkpoint, which the export reads, in zoo layout."""
        source, model = self.source, self.recipe.name
        chosen = {}
        if source.pipeline_config is not None:
            if source.pipeline_config not in files:
                raise CheckpointError(
                    f"The archive of {model!r} holds no {source.pipeline_config}.",
                    "Correct source.pipeline_config in the recipe.",
                )
            chosen["pipeline.config"] = files[source.pipeline_config]
            name = f"{model}: {source.pipeline_config}"
            data = self.store.read(files[source.pipeline_config], name)
            if git_lfs.is_pointer(data):
                place = f"{source.pipeline_config} in the archive of {model!r}"
                raise git_lfs.refusal(CheckpointError, place)
            pipeline = pipeline_config.described(data, name)
            pipeline_config.check_size(pipeline, self.recipe.export.image_size)
        prefix = source.checkpoint.rstrip("/")
        # "." is the archive's root, where automl's archives have their checkpoints.
        starts = ("",) if prefix == "." else (f"{prefix}/", f"{prefix}.")
        checkpoint = {
            f"checkpoint/{PurePosixPath(path).name}": digest
            for path, digest in files.items()
            if path.startswith(starts) and (prefix != "." or "/" not in path)
        }
        if not any(path.endswith(".index") for path in checkpoint):
            raise CheckpointError(
                f"The archive of {model!r} holds no checkpoint at {source.checkpoint} "
                "(no .index file).",
                "Correct source.checkpoint in the recipe; it names a folder or a checkpoint "
                "prefix.",
            )
        return {**chosen, **checkpoint}

    def _prebuilt(self, files: Mapping[str, str]) -> str | None:
        """Return the SHA-256 of the archive's ready ``.tflite``, if the recipe names one."""
        if self.source.prebuilt is None:
            return None
        if self.source.prebuilt not in files:
            raise CheckpointError(
                f"The archive of {self.recipe.name!r} holds no {self.source.prebuilt}.",
                "Correct source.prebuilt in the recipe, or drop it and the variant 'prebuilt'.",
            )
        return files[self.source.prebuilt]
