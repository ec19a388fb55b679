"""Names that statements, bundles and released files go by; ``docs/build-type.md`` explains them."""

from __future__ import annotations

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PROVENANCE_TYPE = "https://slsa.dev/provenance/v1"
TEST_RESULT_TYPE = "https://in-toto.io/attestation/test-result/v0.1"
RELEASE_TYPE = "https://in-toto.io/attestation/release/v0.1"

#: What a build of ours is, and what its parameters mean: ``docs/build-type.md``.
BUILD_TYPE = "https://tflite-kiln.github.io/build-types/conversion/v1"

#: Who ran it, where no CI says so: somebody's own machine.
BUILDER_LOCAL = "https://tflite-kiln.github.io/builders/local/v1"

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"

#: The folder of a model folder that its statements are in.
ATTESTATIONS = "attestations"
PROVENANCE_SUFFIX = ".provenance.sigstore.json"
TEST_RESULT_SUFFIX = ".test-result.sigstore.json"

#: What else lies in a model folder, and what statements rest on.
CONVERSION_FILE = "conversion.json"
CHECKS_FILE = "checks.json"
SOURCE_FILE = "source.tar"
SBOM_FILE = "sbom.cdx.json"

#: What the publisher's own file is called in the place of a variant.
ORIGINAL = "prebuilt_original"

#: The statement about the whole release, in its top folder.
RELEASE_BUNDLE = "release.sigstore.json"


def artefact_file(model: str, variant: str) -> str:
    """What a published artefact is called.

    >>> artefact_file("toy", "int8")
    'toy_int8.tflite'
    """
    return f"{model}_{variant}.tflite"


def provenance_path(file: str) -> str:
    """Where the provenance of ``file`` of a model folder is, relative to that folder.

    >>> provenance_path("toy_int8.tflite")
    'attestations/toy_int8.tflite.provenance.sigstore.json'
    """
    return f"{ATTESTATIONS}/{file}{PROVENANCE_SUFFIX}"


def result_path(file: str) -> str:
    """Where the test result of ``file`` of a model folder is, relative to that folder.

    >>> result_path("toy_int8.tflite")
    'attestations/toy_int8.tflite.test-result.sigstore.json'
    """
    return f"{ATTESTATIONS}/{file}{TEST_RESULT_SUFFIX}"


#: In the predicate of the statement that nothing else vouches for: a signature with a key over it
#: is in its low form (:func:`kiln.signing.keys.low`). Whoever strips it has to sign anew.
SIGNATURE_FORM, LOW_S = "signatureForm", "low-s"
