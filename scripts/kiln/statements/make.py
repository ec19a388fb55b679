"""Make the statements about a model's artefacts from the data of its build."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kiln.core.digest import sha256_bytes
from kiln.core.errors import StoreError
from kiln.project.folders import Project
from kiln.recipes.plan import Plan
from kiln.recipes.recipe import Recipe
from kiln.running.limits import Limits
from kiln.signing.statement_names import (
    CHECKS_FILE,
    CONVERSION_FILE,
    SOURCE_FILE,
    provenance_path,
    result_path,
)
from kiln.statements.package import Package
from kiln.statements.plan_data import plan_as_data
from kiln.statements.provenance import (
    Build,
    builder_of,
    other_images,
    provenance_statement,
    sboms_in,
    shared_dependencies,
)
from kiln.statements.repository import Repository
from kiln.statements.source_archive import archived_recipe_path, archived_sources
from kiln.statements.source_archive_reader import SourceArchive
from kiln.statements.test_result import test_result_statement


@dataclass(frozen=True)
class Sources:
    """The sources of a model's build: ``source.tar``, the recipe's path in it, and whose code.

    Attributes:
        repository: the checkout's state, where it is a git checkout.
        package: the installed kiln, where it is one.
    """

    data: bytes
    archive: SourceArchive
    recipe_path: str
    repository: Repository | None
    package: Package | None = None

    def files(self, image: str, others: Sequence[str]) -> dict[str, bytes]:
        """Return the files for the model's folder: the archive and the images' SBOMs.

        Args:
            image: the recipe's.
            others: the others that the build used.
        """
        sboms = sboms_in(self.archive, image, others)
        found = {file: self.archive.files[path] for file, path in sboms.items()}
        return {SOURCE_FILE: self.data, **found}


@dataclass(frozen=True)
class About:
    """An artefact to make statements about; the step ``step`` makes it."""

    variant: str
    file: str
    sha256: str
    step: str


def gather(
    project: Project,
    recipe: Recipe,
    code: str,
    repository: Repository | None,
    package: Package | None = None,
) -> Sources:
    """Collect the sources that a build starts with.

    Args:
        code: digest of the stage code that the build is planned with.

    Raises:
        StoreError: see :func:`kiln.statements.source_archive.source_archive`; or the stage code
            changed meanwhile.
    """
    data, archive = archived_sources(project, recipe)
    if archive.stage_code() != code:
        raise StoreError(
            "The stage code changed while the build began.",
            "Run again without editing it meanwhile.",
        )
    return Sources(data, archive, archived_recipe_path(project, recipe), repository, package)


def statements(
    recipe: Recipe,
    limits: Limits,
    plan: Plan,
    sources: Sources,
    artefacts: Iterable[About],
    records: Mapping[str, bytes],
) -> dict[str, dict[str, Any]]:
    """Make the statements: path of a bundle below the model folder -> statement.

    Args:
        limits: bounds of the containers.
        records: ``conversion.json``, and ``checks.json`` where there is one.
    """
    record = json.loads(records[CONVERSION_FILE])
    others = other_images(record)
    sboms = sboms_in(sources.archive, recipe.image, others)
    build = Build(
        recipe.name,
        sources.archive,
        sources.recipe_path,
        shared_dependencies(sources.archive, recipe.image, record["source"], others, sboms),
        limits,
        sha256_bytes(records[CONVERSION_FILE]),
        sources.repository,
        package=sources.package,
        builder=builder_of(os.environ),
    )
    checks = json.loads(records.get(CHECKS_FILE, b'{"variants": {}}'))
    found = {}
    for item in artefacts:
        about = {"variant": item.variant, "file": item.file, "sha256": item.sha256}
        data = plan_as_data(plan, item.step)
        found[provenance_path(item.file)] = provenance_statement(build, data, **about)
        if item.variant in checks["variants"]:
            found[result_path(item.file)] = test_result_statement(
                checks, sha256_bytes(records[CHECKS_FILE]), **about
            )
    return found
