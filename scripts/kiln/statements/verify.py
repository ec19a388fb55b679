"""Verify the statements about a model folder's artefacts against its files.

Each statement must be signed by a trusted signer and say exactly what follows from the files: it
is made again from them and compared, part by part. What cannot be computed again (the machine, the
builder, the commit) is believed on the signer's word.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from kiln.core.digest import canonical_json, sha256_bytes, tree_key
from kiln.core.errors import VerificationError
from kiln.core.untrusted import MalformedError, parse_json, parse_json_object, parse_toml
from kiln.project import bounds
from kiln.recipes import targets
from kiln.running.limits import Limits
from kiln.signing.dsse import REMEDY
from kiln.signing.signer import Verifier
from kiln.signing.statement_names import (
    ATTESTATIONS,
    BUILD_TYPE,
    CHECKS_FILE,
    CONVERSION_FILE,
    ORIGINAL,
    PROVENANCE_TYPE,
    SBOM_FILE,
    SOURCE_FILE,
    is_sbom,
    provenance_path,
    result_path,
)
from kiln.statements.package import Package
from kiln.statements.plan_data import plan_from_data
from kiln.statements.provenance import (
    PACKAGE,
    REPOSITORY,
    Build,
    Host,
    locked_in,
    other_images,
    provenance_statement,
    recipe_digest_in,
    sboms_in,
    shared_dependencies,
)
from kiln.statements.repository import Repository
from kiln.statements.source_archive_reader import SourceArchive
from kiln.statements.test_result import test_result_statement

#: Exceptions from reading data of an unexpected form.
_OTHER_FORM = (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError)


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model folder.

    Attributes:
        model: the folder's name.
        digests: relative POSIX path -> SHA-256, of every file but ``model.sig``.
        read: reads one; raises ``MalformedError`` or ``OSError``.
    """

    model: str
    digests: Mapping[str, str]
    read: Callable[[str], bytes]

    def content(self, path: str) -> bytes:
        """Read a file; ``VerificationError`` if it does not match its digest."""
        try:
            data = self.read(path)
        except MalformedError as error:
            raise VerificationError(f"{path} {error}.", REMEDY) from None
        except OSError as error:
            raise VerificationError(
                f"{path} cannot be read: {error.strerror or error}.", REMEDY
            ) from None
        if sha256_bytes(data) != self.digests[path]:
            raise VerificationError(f"{path} changed while it was read.", "Run the command again.")
        return data

    def artefacts(self) -> list[str]:
        """Return the names of the artefacts, sorted."""
        return sorted(path for path in self.digests if path.endswith(".tflite"))


def statement_problems(files: ModelFiles, verifier: Verifier) -> dict[str, list[str]]:
    """Find problems in the statements of a model folder: path -> reasons; empty if there are none.

    Each artefact must have one provenance, and one test result where ``checks.json`` judged it;
    there may be no other statement.
    """
    return _Checking(files, verifier).problems()


@dataclass(frozen=True)
class _Companions:
    """The files that statements are derived from, each checked by itself."""

    archive: SourceArchive
    conversion: Mapping[str, Any]
    recipe_path: str
    recipe: Mapping[str, Any]
    shared: list[dict[str, Any]]


class _Checking:
    """One pass over a model folder."""

    def __init__(self, files: ModelFiles, verifier: Verifier) -> None:
        self.files, self.verifier = files, verifier
        self.found: dict[str, list[str]] = defaultdict(list)

    def problems(self) -> dict[str, list[str]]:
        there = self.files.digests
        artefacts = self.files.artefacts()
        if not artefacts:
            self.found["."].append("holds no artefact")
        checks = self._json(CHECKS_FILE) if CHECKS_FILE in there else None
        judged = self._judged(checks)
        wanted = {provenance_path(file) for file in artefacts}
        wanted |= {result_path(file) for file in artefacts if file in judged}
        for path in sorted(there):
            if path.startswith(f"{ATTESTATIONS}/") and path not in wanted:
                self.found[path].append("is not a statement about a file of this folder")
        for path in sorted(wanted - there.keys()):
            self.found[path].append(
                f"is missing: {_about(path)} has no such statement",
            )
        companions = self._companions()
        for file in artefacts:
            if provenance_path(file) in there and companions is not None:
                self._check(provenance_path(file), self._provenance, file, companions)
            if file in judged and result_path(file) in there and checks is not None:
                self._check(result_path(file), self._result, file, (checks, judged[file]))
        return {path: reasons for path, reasons in self.found.items() if reasons}

    # -- files that statements are derived from -----------------------------------------------

    def _companions(self) -> _Companions | None:
        """None where one of them is missing or damaged; that is reported."""
        for path in (SOURCE_FILE, CONVERSION_FILE):
            if path not in self.files.digests:
                self.found[path].append("is missing: the statements about artefacts depend on it")
                return None
        conversion = self._json(CONVERSION_FILE)
        archive = self._archive()
        if archive is None or conversion is None:
            return None
        try:
            path, recipe = self._recipe(archive)
            image = recipe["image"]
            self.found[SOURCE_FILE] += _lock_problems(archive, image)
        except VerificationError as error:
            self.found[SOURCE_FILE].append(_reason(error, SOURCE_FILE))
            return None
        except _OTHER_FORM:
            self.found[SOURCE_FILE].append("holds no valid lock of its recipe's image")
            return None
        try:
            self.found[CONVERSION_FILE] += self._disagreements(archive, conversion, path, image)
            others = other_images(conversion)
            self.found[SOURCE_FILE] += [
                problem for name in others for problem in _lock_problems(archive, name)
            ]
            sboms = self._sboms(archive, image, others)
            shared = shared_dependencies(archive, image, conversion["source"], others, sboms)
        except _OTHER_FORM:
            self.found[CONVERSION_FILE].append("is damaged: it does not have kiln's form")
            return None
        return _Companions(archive, conversion, path, recipe, shared)

    def _json(self, path: str) -> dict[str, Any] | None:
        try:
            return parse_json_object(self.files.content(path), size=bounds.RECORD.most)
        except VerificationError as error:
            self.found[path].append(_reason(error, path))
        except MalformedError as error:
            self.found[path].append(f"is damaged: it {error}")
        return None

    def _archive(self) -> SourceArchive | None:
        try:
            return SourceArchive.read(self.files.content(SOURCE_FILE))
        except VerificationError as error:
            self.found[SOURCE_FILE].append(_reason(error, SOURCE_FILE))
            return None

    def _recipe(self, archive: SourceArchive) -> tuple[str, dict[str, Any]]:
        """Return path and content of the archive's only recipe, which must be this model's."""
        paths = [path for path in archive.files if fnmatchcase(path, "models/*/recipe.toml")]
        if len(paths) != 1:
            raise VerificationError(f"{SOURCE_FILE} holds {len(paths)} recipes, not one.")
        try:
            recipe = parse_toml(archive.files[paths[0]])
            fitting = recipe["name"] == self.files.model and isinstance(recipe["image"], str)
        except _OTHER_FORM:
            fitting = False
        if not fitting:
            raise VerificationError(
                f"{SOURCE_FILE} holds the recipe of another model than {self.files.model!r}."
            )
        return paths[0], recipe

    def _disagreements(
        self, archive: SourceArchive, conversion: Mapping[str, Any], path: str, image: str
    ) -> list[str]:
        """List contradictions between the record and the archive."""
        locked = locked_in(archive, image)
        named = {"name": locked.name, "identity": locked.identity, "layer": locked.layer}
        others = [locked_in(archive, name) for name in other_images(conversion)]
        said = {
            "model": (conversion["model"], self.files.model),
            "recipe": (conversion["recipe"]["sha256"], archive.digest(path)),
            "image": (conversion["image"], named),
            "other images": (
                conversion.get("other_images", []),
                [
                    {"name": item.name, "identity": item.identity, "layer": item.layer}
                    for item in others
                ],
            ),
            "stage code": (conversion["stage_code"], archive.stage_code()),
        }
        return [
            f"names another {what} than {SOURCE_FILE} holds"
            for what, (one, other) in said.items()
            if one != other
        ]

    def _sboms(self, archive: SourceArchive, image: str, others: Sequence[str]) -> dict[str, str]:
        """Check the images' SBOMs; return those that provenances name.

        An older kiln kept that of the recipe's image alone, so others may be absent where no
        provenance names them: one that names an absent file differs from what is made again.
        """
        known = sboms_in(archive, image, others)
        digests = self.files.digests
        for file in filter(is_sbom, digests):
            if file not in known:
                self.found[file].append(f"is not the SBOM of an image of {SOURCE_FILE}")
            elif digests[file] != archive.digest(known[file]):
                self.found[file].append(f"is not the one in {SOURCE_FILE}")
        if SBOM_FILE in known and SBOM_FILE not in digests:
            self.found[SBOM_FILE].append("is missing")
        return {file: path for file, path in known.items() if file in digests or file == SBOM_FILE}

    # -- statements ------------------------------------------------------------------------

    def _check(
        self, path: str, what: Callable[[dict[str, Any], str, Any], list[str]], file: str, base: Any
    ) -> None:
        try:
            statement = self.verifier.open_bundle(self.files.content(path), path)
            self.found[path] += what(statement, file, base)
        except VerificationError as error:
            self.found[path].append(_reason(error, path))
        except _OTHER_FORM:
            self.found[path].append("is damaged: it is not a statement of kiln's form")

    def _provenance(self, statement: dict[str, Any], file: str, base: _Companions) -> list[str]:
        model, digest = self.files.model, self.files.digests[file]
        definition = statement["predicate"]["buildDefinition"]
        if statement["predicateType"] != PROVENANCE_TYPE or definition["buildType"] != BUILD_TYPE:
            return ["is not a provenance of a kiln build"]
        if not file.startswith(f"{model}_"):
            return [f"is about {file}, which is not a file of the model {model!r}"]
        variant = file.removeprefix(f"{model}_").removesuffix(".tflite")
        inside = definition["internalParameters"]
        plan = plan_from_data(inside["plan"])
        builder, host = statement["predicate"]["runDetails"]["builder"], inside["host"]
        metadata = statement["predicate"]["runDetails"]["metadata"]
        words = (builder["id"], builder["version"]["kiln"], host["machine"], host["cpu"])
        invocation = metadata.get("invocationId", "")
        if not all(isinstance(word, str) and word for word in words):
            raise ValueError("empty words")
        again = provenance_statement(
            Build(
                model,
                base.archive,
                base.recipe_path,
                base.shared,
                _limits(inside["limits"]),
                self.files.digests[CONVERSION_FILE],
                _repository(definition["resolvedDependencies"]),
                Host(host["machine"], host["cpu"]),
                (builder["id"], invocation),
                builder["version"]["kiln"],
                _package(definition["resolvedDependencies"], builder["version"]["kiln"]),
            ),
            inside["plan"],
            variant=variant,
            file=file,
            sha256=digest,
        )
        problems = _differences(statement, again)
        compiled = [
            targets.compiled_name(item.get("variant", targets.VARIANT), item["target"])
            for item in base.recipe.get("compile", ())
        ]
        if variant not in (*base.recipe["variants"], *compiled, ORIGINAL):
            problems.append(f"is about the variant {variant!r}, which the recipe does not list")
        locked = locked_in(base.archive, base.recipe["image"])
        if plan.identity != locked.identity:
            problems.append(f"has a plan for another image than {SOURCE_FILE} locks")
        others = {locked_in(base.archive, name).identity for name in other_images(base.conversion)}
        if {step.image for step in plan.steps} - {"", *others}:
            problems.append(f"has a step in another image than {SOURCE_FILE} locks")
        files = base.archive.stage_files()
        if plan.code.digest != tree_key(files) or plan.code.wrong_in(files):
            problems.append(f"has a plan for other stage code than {SOURCE_FILE} holds")
        (artefact,) = plan.artefacts.values()
        stages = base.conversion["stages"]
        record = base.conversion["artefacts"].get(variant)
        if any(stages.get(step.id, {}).get("key") != step.key for step in plan.steps):
            problems.append(f"has a plan other than the one in {CONVERSION_FILE}")
        elif stages[artefact]["files"].get("model.tflite") != digest:
            problems.append(f"is about other bytes than {CONVERSION_FILE} records for {file}")
        if variant != ORIGINAL and (
            record is None or (record["file"], record["sha256"]) != (file, digest)
        ):
            problems.append(f"is about {file}, which {CONVERSION_FILE} does not list")
        return problems

    def _judged(self, checks: Mapping[str, Any] | None) -> dict[str, str]:
        """Map the files that ``checks.json`` has a verdict on to their variants."""
        if checks is None:
            return {}
        try:
            return {entry["file"]: name for name, entry in checks["variants"].items()}
        except _OTHER_FORM:
            self.found[CHECKS_FILE].append("is damaged: it does not have kiln's form")
            return {}

    def _result(
        self, statement: dict[str, Any], file: str, base: tuple[Mapping[str, Any], str]
    ) -> list[str]:
        checks, variant = base
        digest = self.files.digests[file]
        if checks["variants"][variant]["sha256"] != digest:
            return [f"is based on {CHECKS_FILE}, which checked other bytes than those of {file}"]
        again = test_result_statement(
            checks, self.files.digests[CHECKS_FILE], variant=variant, file=file, sha256=digest
        )
        if canonical_json(statement) == canonical_json(again):
            return []
        if statement["subject"] != again["subject"]:
            return [f"is about other bytes than those of {file}"]
        return [f"does not match what {CHECKS_FILE} says about {file}"]


# --- parts -------------------------------------------------------------------------------------


def _lock_problems(archive: SourceArchive, image: str) -> list[str]:
    """List contradictions in the archive's lock, and with the files the image is built from."""
    locked = locked_in(archive, image)
    config = locked.config.encode("utf-8")
    problems = []
    if locked.identity != f"sha256:{sha256_bytes(config)}":
        problems.append(f"locks the image {image!r} to another identity than its configuration's")
    if parse_json(config)["rootfs"]["diff_ids"] != [locked.layer]:
        problems.append(f"locks the image {image!r} to another layer than its configuration's")
    if locked.recipe != recipe_digest_in(archive, image):
        problems.append(f"holds other sources of the image {image!r} than were locked")
    return problems


def _limits(stated: Mapping[str, Any]) -> Limits:
    memory, timeout = stated["memory"], stated["timeout"]
    if type(memory) is not int or type(timeout) not in (int, float):
        raise ValueError("no limits")
    return Limits(memory=memory, timeout=timeout)


def _repository(stated: list[Mapping[str, Any]]) -> Repository | None:
    for item in stated:
        if item["name"] == REPOSITORY:
            commit, dirty = item["digest"]["gitCommit"], item["annotations"]["dirty"]
            if not isinstance(commit, str) or not isinstance(dirty, bool):
                raise ValueError("no repository")
            return Repository(str(item["uri"]), commit, dirty)
    return None


def _package(stated: list[Mapping[str, Any]], version: str) -> Package | None:
    for item in stated:
        if item["name"] == PACKAGE:
            dirty = item["annotations"]["dirty"]
            if not isinstance(dirty, bool):
                raise ValueError("no package")
            return Package(version, dirty)
    return None


def _differences(statement: Mapping[str, Any], again: Mapping[str, Any]) -> list[str]:
    """List the parts of a provenance that do not follow from its files."""
    if canonical_json(statement) == canonical_json(again):
        return []
    problems = []
    if statement["subject"] != again["subject"]:
        problems.append(f"is about other bytes than those of {again['subject'][0]['name']}")
    one, other = (item["predicate"]["buildDefinition"] for item in (statement, again))
    if one["externalParameters"] != other["externalParameters"]:
        problems.append(f"has another recipe, model or variant than {SOURCE_FILE} and the file")
    stated, actual = (
        {item["name"]: item for item in part["resolvedDependencies"]} for part in (one, other)
    )
    wrong = sorted(
        name for name in stated.keys() | actual.keys() if stated.get(name) != actual.get(name)
    )
    if wrong:
        problems.append(f"names other dependencies than follow from the files: {', '.join(wrong)}")
    if (
        statement["predicate"]["runDetails"]["byproducts"]
        != again["predicate"]["runDetails"]["byproducts"]
    ):
        problems.append(f"was made with another {CONVERSION_FILE}")
    return problems or ["has a field that is not part of kiln's provenance"]


def _about(path: str) -> str:
    """Return the artefact that a bundle would be about, by its path."""
    return path.removeprefix(f"{ATTESTATIONS}/").rsplit(".", 3)[0]


def _reason(error: VerificationError, path: str) -> str:
    return error.message.removeprefix(path).strip().rstrip(".")
