"""Stage: check an artefact against its source model.

The gates (:mod:`stages.gates.result`) examine the file, then run it by its own metadata only and
compare its detections with the source model's. A gate that fails is a result, not a failure of this
stage: the driver decides whether to publish.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional

from stages.detect import detector, enough
from stages.files import labelmap, pixels
from stages.files.normalizations import Normalization, named, three
from stages.gates import (
    diagnosis,
    feeding_cost,
    label_proof,
    own_list,
    parity,
    stated_normalization,
    structure,
)
from stages.gates.result import SKIPPED, Gate, beside
from stages.protocol.failures import StageError
from stages.protocol.request import REQUIRED
from stages.steps import annotate
from stages.tflite import decoding, tflite_meta

ENVIRONMENT = "main"

PARAMS: dict[str, Any] = {
    "variant": REQUIRED,  # "float32", "float16", "dynamic", "int8", "int16x8" or "prebuilt"
    "architecture": REQUIRED,  # as the export reports it
    "num_classes": REQUIRED,
    "input": None,  # {"height", "width"} in pixels, as the export reports it
    "normalization": None,  # {"mean": [..], "std": [..]} that the graph wants; None: not known
    "roles": None,  # role -> output name, where the graph does not tell (adopt)
    # If it was only stated by a user: those tried on the source, {"mean", "std", "distance"},
    # nearest first (stages.steps.saved_model_reference).
    "normalizations": None,
    "untrained": (),  # texts: reasons to think that the model was never trained
    "weights": None,  # how many numbers the model's variables hold
    "score_threshold": 0.3,  # detections below it are not compared
    "nms_score_threshold": None,  # of the model's own post-processing; None: not known, or none
    "limits": {},  # of parity: overrides of stages.gates.parity.LIMITS
    "expect": (),  # known objects: {"image", "label", "least_score"}
    "prove_normalization": True,  # try the other normalisations, too
    "reference_kernels": False,  # see stages.detect.detector.make_interpreter
    "inference_io": "uint8",  # as in convert
    "postprocess": decoding.TFLITE,  # as in export
    "plain": False,  # True: see stages.gates.structure.Expected; always so of "prebuilt"
}

RESULT_FILE = "check.json"

NOTHING = 1.0  # a score threshold that nothing reaches

_PROOF_IMAGES = 2  # to try other normalisations and mistakes on: those with most detections
_ROUNDED, _ROUNDED_FEW = 2, 1  # images to run with whole pixels, too
_KEPT = 0.5  # detections down to this fraction of the threshold are recorded
_FLAT, _FLAT_SHARE = 1e-3, 0.2
"""Scores of a detector with constant output differ by less: absolutely, and relative to the
highest (a trained one also has low scores where it finds nothing, but not all alike)."""
_MANY = 20  # as many scores are not alike by chance

_NOISE = {"float32": 0.001, "float16": 0.005}  # by variant; others:
_QUANTISED_NOISE = 0.05
"""Differences in agreement with the source that rounding alone can cause."""


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Check ``inputs["model"]``.

    Inputs: ``model``; ``images``, a folder; ``label_map``; ``source``, the ``detections.json`` of
    :mod:`stages.steps.reference` for these images (left out where there is no model to compare
    with).

    Writes ``out/check.json``: ``gates`` (a list, :meth:`stages.gates.result.Gate.as_json`),
    ``detections`` (by image, of the artefact) and ``source`` (by image, by the model's own
    post-processing, or null), with labels,
    down to half of the threshold. Runtimes that resize pictures themselves feed whole pixels: for
    them, of the first images, ``rounded`` (the artefact's detections in such a picture) and
    ``out/pixels/<image>.npy`` (the picture itself, uint8 [height, width, 3], as the environment
    that decodes no images takes it).

    Returns:
        Facts: ``gates``: name -> status; ``score_threshold`` as compared with; ``compared_from``,
        the same for other runtimes (1 where detections cannot be told apart, so none is);
        ``nms_score_threshold``, 0 where there is none; and ``runtime``.

    Raises:
        StageError: kinds ``image-set``, ``label-map``, ``stage-failed``: the check itself failed.
    """
    data = inputs["model"].read_bytes()
    files = pixels.list_images(inputs["images"])
    label_map = labelmap.load(inputs["label_map"], params["num_classes"])
    lines = labelmap.lines(label_map.items, params["num_classes"], inputs["label_map"].name)
    size = params["input"] or {"height": 0, "width": 0}
    kind = structure.Expected(
        variant=params["variant"],
        architecture=params["architecture"],
        height=size["height"],
        width=size["width"],
        weights=params["weights"],
        roles=params["roles"],
        input_type=params["inference_io"],
        postprocess=params["postprocess"],
        plain=params["plain"] or params["variant"] == "prebuilt",
    )
    given = [path.name for path in files]
    source = _source(inputs, given, params["postprocess"])
    emit.progress(0, len(files), "looking at the file")
    gates = [structure.examine(data, kind)]
    found: dict[str, Any] = {}
    ends: dict[str, float] = {}
    rounded: dict[str, Any] = {}
    runtime = ""
    try:
        model = detector.Detector(data, params["reference_kernels"], threaded=True)
        runtime = model.runtime
        if not kind.plain:
            structure.allocated(gates[0], data, model.output_shapes)
        slow, large = params["reference_kernels"], _large(model)
        images = _images(inputs["images"], source, crops=not slow)
        if large and source is not None:
            images = _few(model, images, source, params)
        whole = [name for name in sorted(given) if name in images]
        whole = whole[: _ROUNDED_FEW if slow or large else _ROUNDED]
        # Where one run takes a second, whole pixels serve both purposes: the effect of rounding is
        # far below the differences of quantised kernels.
        shared = model.raw or slow or (large and params["variant"] not in _NOISE)
        for done, (name, image) in enumerate(images.items()):
            emit.progress(min(done, len(files)), len(files), name)
            if name in whole:
                values = _rounded(model, image)
                _save_pixels(out / "pixels" / f"{name}.npy", values)
                rounded[name] = model.detect(values)
            if name in whole and shared:
                found[name] = model.in_photograph(rounded[name], image)
            else:
                found[name] = model.detect(image)
            ends[name] = model.end
    except StageError as error:
        if error.kind != "unsupported-model":
            raise
        gates.append(_refused(error))
    else:
        gates.append(_ran(model, found))
        gates += _behaviour(model, images, source, (found, ends), lines, params)
    comparable = all(gate.status != SKIPPED for gate in gates)
    least = params["score_threshold"]
    own = None
    if source is not None:
        least = parity.threshold(source.comparable, least)
        own = {name: source.truth.own[name] for name in given if name in source.truth.own}
    result = {
        "gates": [gate.as_json() for gate in gates],
        "detections": _written({name: found[name] for name in given if name in found}, least, None),
        "rounded": _written(rounded, least, None),
        "source": None if own is None else _written(own, least, lines),
    }
    text = json.dumps(result, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    (out / RESULT_FILE).write_text(text + "\n", encoding="utf-8")
    emit.progress(len(files), len(files), "done")
    return {
        "gates": {gate.name: gate.status for gate in gates},
        "score_threshold": least,
        "compared_from": least if comparable else NOTHING,
        "nms_score_threshold": _own_threshold(params),
        "runtime": runtime,
    }


@dataclass(frozen=True)
class _Source:
    """The source model's detections, by image.

    Args:
        truth: of the model by its own configuration.
        built: of the model as it was converted: an input of one size, or the size that was asked
            for. Else the same.
        comparable: detections that have the artefact's numbers.
        files: names of the images that are files; the others are crops of them.
    """

    truth: own_list.Lists
    built: own_list.Lists
    comparable: Mapping[str, Any]
    files: tuple[str, ...]

    def only(self, names: Collection[str]) -> _Source:
        """Leave out other images."""

        def some(found: Any) -> Any:
            return found and {name: items for name, items in found.items() if name in names}

        both = (
            replace(lists, own=some(lists.own), as_tflite=some(lists.as_tflite))
            for lists in (self.truth, self.built)
        )
        return _Source(*both, some(self.comparable), self.files)


def _source(inputs: Mapping[str, Path], names: list[str], postprocess: str) -> Optional[_Source]:
    """Read the source model's detections."""
    if "source" not in inputs:
        return None
    written = json.loads(inputs["source"].read_text(encoding="utf-8"))
    suppression, as_tflite = written["suppression"], written["as_tflite"]
    ends = written["ends"]
    if postprocess == decoding.NONE:
        as_tflite = None  # decoded, boxes are suppressed as the model's own post-processing does
    truth = own_list.Lists(written["images"], suppression, own_ends=ends["images"])
    built = truth
    if written["as_built"]:
        built = own_list.Lists(written["as_built"], suppression, own_ends=ends["as_built"])
    if as_tflite:
        built = replace(built, as_tflite=as_tflite, as_tflite_ends=ends["as_tflite"])
    if not any(name in truth.own for name in names):  # of a large input, not on all
        raise StageError("stage-failed", f"The source was not run on {names[0]}.", "This is a bug.")
    # The operator at the end of SSD-like files uses its own suppression rule.
    return _Source(truth, built, as_tflite or built.own, tuple(names))


def _images(folder: Path, source: Optional[_Source], crops: bool) -> dict[str, Any]:
    """Decode the images, and crops of them: those that the source was run on."""
    found = pixels.pictures(folder, crops and source is not None)
    return {name: image for name, image in found if source is None or name in source.truth.own}


def _few(
    model: detector.Detector,
    images: Mapping[str, Any],
    source: _Source,
    params: Mapping[str, Any],
) -> dict[str, Any]:
    """Choose the images for a large input: in which the source finds most.

    One run of it takes long (:func:`stages.files.pixels.is_large`): nothing is run that cannot
    change a verdict. Kernels of quantised files are the slowest, and what they round they round in
    any image: one is enough.

    The first has other proportions than the input, if there is such a one; at least one is no crop,
    as other runtimes need it. Images of expected objects stay.
    """
    least = parity.threshold(source.comparable, params["score_threshold"])
    odd = _telling(source.comparable, least, _of_other_shapes(model, images))[:1]
    files = [name for name in images if name in source.files]
    ranked = [*odd, *_telling(source.comparable, least, files), *files]
    count = enough.IMAGES if params["variant"] in _NOISE else 1
    chosen = [*dict.fromkeys(ranked)][:count]
    if not set(chosen) & set(files):
        chosen += files[:1]
    chosen += [item["image"] for item in params["expect"]]
    return {name: image for name, image in images.items() if name in chosen}


def _large(model: detector.Detector) -> bool:
    return pixels.is_large(model.height, model.width)


def _rounded(model: detector.Detector, image: Any) -> Any:
    """Make the input picture of an image in whole pixels: uint8 [height, width, 3]."""
    return pixels.to_uint8(pixels.fed(image, model.height, model.width, model.feeding))


def _save_pixels(path: Path, values: Any) -> None:
    import numpy as np

    path.parent.mkdir(exist_ok=True)
    np.save(path, values, allow_pickle=False)


def _own_threshold(params: Mapping[str, Any]) -> float:
    return max(params["nms_score_threshold"] or 0.0, 0.0)


def _refused(error: StageError) -> Gate:
    gate = Gate("runtime-tensorflow")
    if isinstance(error, detector.OutputError):
        gate.problem(error.code, "the outputs of a detector", error.message, error.remedy)
        return gate
    gate.problem(
        "refused",
        "a file that runs by its own metadata",
        error.message,
        "See the gate `structure`; the other gates could not run.",
    )
    return gate


def _ran(model: detector.Detector, found: Mapping[str, Any]) -> Gate:
    count = sum(len(items) for items in found.values())
    return Gate(
        "runtime-tensorflow",
        f"{model.runtime}: {count} detections in {len(found)} images",
        figures={"runtime": model.runtime},
    )


def _behaviour(
    model: detector.Detector,
    images: Mapping[str, Any],
    source: Optional[_Source],
    answers: tuple[dict[str, Any], parity.Ends],
    lines: list[str],
    params: Mapping[str, Any],
) -> list[Gate]:
    """Run the gates about its behaviour.

    Args:
        answers: what it finds, and where its full lists end
            (:attr:`stages.detect.detector.Detector.end`), by image.
    """
    found, ends = answers
    threshold = params["score_threshold"]
    own = {} if source is None else source.truth.own
    labels = label_proof.examine(_labels(model), lines, own, found, params["expect"], threshold)
    trained = _trained(found, params["untrained"], model.capacity, source is None)
    why = "there is no source model to compare with: its heads were made in the same stage"
    if source is not None:
        why = "its scores are all alike, so which detection is which cannot be told"
    if source is None or trained.problems:
        return [
            Gate(parity.NAME, skipped=why),
            Gate("normalization", skipped=why),
            Gate(feeding_cost.NAME, skipped=why),
            labels,
            trained,
        ]
    limits = parity.LIMITS[params["variant"]].changed(params["limits"])
    source = source.only(images)
    # Below the model's own threshold it has no detections to compare with.
    end = max(_own_threshold(params), (source.built.suppression or {}).get("score", 0.0))
    same = own_list.examine(source.built, found, limits, threshold, ends, end)
    least = parity.threshold(source.comparable, threshold)
    telling = {name: images[name] for name in _telling(source.comparable, least, images)}
    odd = _telling(source.comparable, least, _of_other_shapes(model, images))
    if _large(model):
        telling, odd = {name: telling[name] for name in [*telling][:1]}, odd[:1]
    if telling and any(problem.code == "differs" for problem in same.problems):
        seen = {name: images[name] for name in dict.fromkeys([*telling, *odd])}
        finding = diagnosis.diagnose(model, seen, source.comparable, least)
        first = same.problems[0]
        same.problems[0] = type(first)(finding.code, first.expected, first.seen, finding.cause)
        same.figures["agreement_explained"] = round(finding.agreement, 6)
    floor = parity.chance_below(end, limits.score_difference, least)
    proof = _Proof(telling, source.comparable, found, least, floor, own_list.agreed(same))
    normalization = _normalization(model, proof, params)
    feeding = _feeding(model, images, odd, source, found, least, params)
    return [same, normalization, feeding, labels, trained]


def _feeding(
    model: detector.Detector,
    images: Mapping[str, Any],
    names: Sequence[str],
    source: _Source,
    found: Mapping[str, Any],
    least: float,
    params: Mapping[str, Any],
) -> Gate:
    """Check the described way of feeding in images that have not the input's proportions."""
    if not names:
        why = "nothing is found in images of other proportions than the input's"
        if not _of_other_shapes(model, images):  # slow variants are not run on crops
            why = "it was run on no image of other proportions than the input's"
        return Gate(
            feeding_cost.NAME, f"{model.feeding.fit}; {why}, so no other way could be told from it"
        )
    ways = {feeding_cost.DESCRIBED: {name: found[name] for name in names}}
    if params["prove_normalization"]:
        for way, how in feeding_cost.other_ways(model.feeding).items():
            if how == model.feeding:
                ways[way] = ways[feeding_cost.DESCRIBED]
                continue
            described = ways[feeding_cost.DESCRIBED]
            if _large(model) and not feeding_cost.telling(way, source.truth, described, least):
                continue
            ways[way] = {name: model.detect(images[name], how=how) for name in names}
    changed = source.built.own != source.truth.own
    return feeding_cost.examine(source.truth, ways, model.feeding, least, changed)


def _of_other_shapes(model: detector.Detector, images: Mapping[str, Any]) -> list[str]:
    """List the images whose proportions are not about those of the input."""
    return [
        name
        for name, image in images.items()
        if pixels.of_other_shape(image, model.height, model.width)
    ]


def _labels(model: detector.Detector) -> Optional[list[str]]:
    named_files = [
        item
        for output in model.metadata.outputs
        if output.name in tflite_meta.LABELLED
        for item in output.files
    ]
    return list(model.labels) if named_files else None


def _telling(source: Mapping[str, Any], least: float, names: Collection[str]) -> list[str]:
    """List those of the images with the source's most detections, by score; best first."""
    weights = {
        name: sum(item["score"] for item in source[name] if item["score"] >= least)
        for name in names
    }
    ranked = sorted(weights, key=lambda name: (-weights[name], name))
    return [name for name in ranked if weights[name] > 0][:_PROOF_IMAGES]


@dataclass(frozen=True)
class _Proof:
    """What other normalisations are tried on.

    Args:
        images: by name.
        source: the source model's detections, by image.
        found: the artefact's with the declared normalisation, by image.
        least: the least score that counts.
        floor: detections of the source with a lower score do not count
            (:func:`stages.gates.parity.clearly_found`).
        agreed: the agreement in gate ``parity``.
    """

    images: Mapping[str, Any]
    source: Mapping[str, Any]
    found: Mapping[str, Any]
    least: float
    floor: float
    agreed: float

    def agreement(self, found: Mapping[str, Any]) -> float:
        """Compute the agreement of some detections with the source's."""
        wanted = {name: self.source[name] for name in self.images}
        sides = parity.clearly_found(wanted, found, self.floor)
        return parity.agreement(*sides, self.least)


def _normalization(model: detector.Detector, proof: _Proof, params: Mapping[str, Any]) -> Gate:
    """Check that the declared normalisation is the one that the graph expects."""
    gate = Gate("normalization")
    own = diagnosis.declared(model)
    fact = params["normalization"]
    right = three(tuple(fact["mean"]), tuple(fact["std"])) if fact else None
    whose = "the model's own"
    if params["normalizations"] and right is not None:
        whose = stated_normalization.examine(gate, params["normalizations"], right)
    if model.raw:
        _raw_pixels(gate, model, right)
        return gate
    gate.figures["declared"] = own.as_fact()
    if right is not None and own.difference(right) > 1e-3:
        gate.problem(
            "normalization",
            f"{named(right)}, the model's own preprocessing",
            named(own),
            "The metadata was written from a constant instead of from the model: devices feed it "
            "pixels on another scale.",
        )
    gate.summary = f"{named(own)}, {whose}"
    if params["prove_normalization"] or gate.problems:
        _prove(gate, model, proof, own, params["variant"])
    return gate


def _raw_pixels(gate: Gate, model: detector.Detector, right: Optional[Normalization]) -> None:
    """Check an input that gets raw pixels: its quantisation must match the model's."""
    quantization = model.input_quantization
    if quantization is None or right is None:
        gate.summary = "raw pixels; the graph converts them itself"
        return
    offset = pixels.RAW_INPUTS[model.input_type]
    error = annotate.pixel_error(quantization, right.mean, right.std, offset)
    gate.figures["pixel_error"] = round(error, 4)
    gate.summary = f"raw pixels, read within {error:.2g} pixel values of {named(right)}"
    if error > annotate.PIXEL_LIMIT:
        gate.problem(
            "normalization",
            f"raw pixels read as {named(right)}, within {annotate.PIXEL_LIMIT:g} pixel values",
            f"up to {beside(error, annotate.PIXEL_LIMIT)} pixel values off",
            "The calibration images do not reach from black to white, or were normalised in "
            "another way than the model is.",
        )


def _prove(
    gate: Gate, model: detector.Detector, proof: _Proof, own: Normalization, variant: str
) -> None:
    """Try other normalisations: none may fit better than the declared one."""
    wanted = [item for name in proof.images for item in proof.source[name]]
    if not any(item["score"] >= proof.floor for item in wanted):
        clearly = f" with a score of {proof.floor:g}" if proof.images else ""
        gate.summary += f"; nothing is found in the images{clearly}, so no other could be told"
        return
    noise = _NOISE.get(variant, _QUANTISED_NOISE)
    if _large(model) and proof.agreed + noise >= 1:
        gate.figures["tried"] = [{**own.as_fact(), "agreement": round(proof.agreed, 6)}]
        gate.summary += f"; agreement {proof.agreed:.4f}, so no other can be clearly better"
        return
    agreements = {own: proof.agreement({name: proof.found[name] for name in proof.images})}
    for norm in diagnosis.other_normalizations(model):
        agreements[norm] = proof.agreement(diagnosis.detections(model, proof.images, norm))
    ranked = sorted(agreements, key=lambda norm: -agreements[norm])
    gate.figures["tried"] = [
        {**norm.as_fact(), "agreement": round(agreements[norm], 6)} for norm in ranked
    ]
    best, others = ranked[0], [norm for norm in ranked if norm != own]
    if agreements[best] < diagnosis.SENSIBLE:
        gate.summary += "; the source is not met under any, which is another gate's matter"
        return
    better = agreements[best] - agreements[own]
    if better > noise:
        gate.problem(
            "normalization",
            f"{named(best)}: agreement {agreements[best]:.3f} with the source",
            f"{named(own)}: {agreements[own]:.3f}",
            "The metadata declares another normalisation than the graph wants.",
        )
    gate.summary += (
        f"; agreement {agreements[own]:.4f}, next best {named(others[0])}: "
        f"{agreements[others[0]]:.4f}"
    )


def _trained(found: Mapping[str, Any], reasons: Any, capacity: Optional[int], alone: bool) -> Gate:
    """Check that the model was trained.

    Args:
        found: the artefact's detections, by image.
        reasons: why its heads were never trained, as the export says.
        capacity: how many detections it can output for an image.
        alone: there is no source model, whose detections would show what is missing.
    """
    gate = Gate("trained")
    scores = [item["score"] for items in found.values() for item in items]
    low, high = (min(scores), max(scores)) if scores else (0.0, 0.0)
    gate.figures.update(lowest_score=low, highest_score=high)
    gate.summary = f"scores from {low:.3g} to {high:.3g}" if scores else "no detection to judge by"
    for reason in reasons:
        gate.problem(
            "untrained-heads",
            "prediction heads that were trained",
            reason,
            "New heads were put on a backbone and never trained (Model Maker's do_train=False), "
            "or the checkpoint holds the backbone only.",
        )
    # A model with its own threshold may find little, and a few scores may be alike by chance.
    many = len(scores) >= _MANY or any(len(items) == capacity for items in found.values())
    flat = high - low < min(_FLAT, _FLAT_SHARE * high)
    if (flat and many) or (alone and not scores):
        gate.problem(
            "flat-scores",
            "scores that depend on what is in the image",
            f"all from {low:.6g} to {high:.6g}" if scores else "no detection at all",
            "The heads were never trained, or the weights are not in the file.",
        )
    return gate


def _written(found: Mapping[str, Any], least: float, lines: Optional[list[str]]) -> dict[str, Any]:
    """Format detections for the report; with ``lines``, labels are added."""
    kept = {
        name: [item for item in items if item["score"] >= _KEPT * least]
        for name, items in found.items()
    }
    if lines is None:
        return kept
    return {
        name: [
            {**item, "label": lines[item["class_id"] - 1]}
            if 0 < item["class_id"] <= len(lines)
            else {**item, "label": labelmap.GAP}
            for item in items
        ]
        for name, items in kept.items()
    }
