"""Names of statements, bundles and released files; ``docs/build-type.md`` explains them."""

from __future__ import annotations

import re

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PROVENANCE_TYPE = "https://slsa.dev/provenance/v1"
TEST_RESULT_TYPE = "https://in-toto.io/attestation/test-result/v0.1"
RELEASE_TYPE = "https://in-toto.io/attestation/release/v0.1"

#: What a stage made, as machines tell each other through a cache: ``docs/cache.md``.
STAGE_RESULT_TYPE = "https://tflite-kiln.github.io/stage-result/v1"

#: kiln's build type and the meaning of its parameters: ``docs/build-type.md``.
BUILD_TYPE = "https://tflite-kiln.github.io/build-types/conversion/v1"

#: That of a single file which ``kiln compile`` wrote.
COMPILATION_TYPE = "https://tflite-kiln.github.io/build-types/compilation/v1"

#: The builder where no CI is known: a user's own machine.
BUILDER_LOCAL = "https://tflite-kiln.github.io/builders/local/v1"

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"

#: The folder for statements in a model folder.
ATTESTATIONS = "attestations"
PROVENANCE_SUFFIX = ".provenance.sigstore.json"
TEST_RESULT_SUFFIX = ".test-result.sigstore.json"

#: Other files of a model folder that statements are derived from.
CONVERSION_FILE = "conversion.json"
CHECKS_FILE = "checks.json"
SOURCE_FILE = "source.tar"
SBOM_FILE = "sbom.cdx.json"
_SBOM = re.compile(r"sbom\.(?:.+\.)?cdx\.json")

#: The variant name of the publisher's own file.
ORIGINAL = "prebuilt_original"

#: The statement about the whole release, in its top folder.
RELEASE_BUNDLE = "release.sigstore.json"


def sbom_file(image: str) -> str:
    """Return the name of another image's SBOM than the recipe's, in a model folder.

    >>> sbom_file("device")
    'sbom.device.cdx.json'
    """
    return f"sbom.{image}.cdx.json"


def is_sbom(path: str) -> bool:
    """Whether a file of a model folder is an image's SBOM, by its name.

    >>> is_sbom("sbom.cdx.json"), is_sbom("sbom.device.cdx.json"), is_sbom("previews/sbom.cdx.json")
    (True, True, False)
    """
    return _SBOM.fullmatch(path) is not None


def artefact_file(model: str, variant: str) -> str:
    """Return the name of a published file.

    >>> artefact_file("toy", "int8")
    'toy_int8.tflite'
    """
    return f"{model}_{variant}.tflite"


def provenance_path(file: str) -> str:
    """Return the path of ``file``'s provenance, relative to the model folder.

    >>> provenance_path("toy_int8.tflite")
    'attestations/toy_int8.tflite.provenance.sigstore.json'
    """
    return f"{ATTESTATIONS}/{file}{PROVENANCE_SUFFIX}"


def result_path(file: str) -> str:
    """Return the path of ``file``'s test result, relative to the model folder.

    >>> result_path("toy_int8.tflite")
    'attestations/toy_int8.tflite.test-result.sigstore.json'
    """
    return f"{ATTESTATIONS}/{file}{TEST_RESULT_SUFFIX}"


#: In the predicate of a statement that no other signature covers: a signature with a key over it is
#: in low form (:func:`kiln.signing.keys.low`). Removing this field invalidates the signature.
SIGNATURE_FORM, LOW_S = "signatureForm", "low-s"
