"""tflite-kiln: TensorFlow object detectors to TFLite, in sealed images, byte for byte.

What ``__all__`` names is public: :func:`inspect` and :func:`diff` look at ``.tflite`` files,
:func:`verify` checks a release, :func:`convert` makes one, :func:`annotate` writes metadata into a
file made elsewhere, :func:`compile` compiles one for an NPU; :func:`bench_model` times files,
:func:`explain_int8` says what int8 costs each layer. ``docs/python.md`` shows how. Every failure is
a :class:`KilnError`: its ``message`` says what happened, its ``remedy`` what to do, and messages
name options of the command where arguments of these functions have the same names.

Everything else, every module of this package, is private and may change with any version.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kiln.core.errors import KilnError
from kiln.core.version import __version__

if TYPE_CHECKING:
    from kiln.building.annotation import Annotated
    from kiln.building.compiled_file import Compiled
    from kiln.building.conversion import Conversion
    from kiln.measure.latency import Measured
    from kiln.measure.quantisation import Explanation
    from kiln.release.any_form import Verified
    from kiln.tflite.diff import Difference
    from kiln.tflite.inspect import Inspection

__all__ = [
    "Annotated",
    "Compiled",
    "Conversion",
    "Difference",
    "Explanation",
    "Inspection",
    "KilnError",
    "Measured",
    "Verified",
    "__version__",
    "annotate",
    "bench_model",
    "compile",
    "convert",
    "diff",
    "explain_int8",
    "inspect",
    "verify",
]

# Modules are imported by the functions that use them: `import kiln` costs next to nothing, and the
# packages below stay on their floors.
_RESULTS = {
    "Annotated": "kiln.building.annotation",
    "Compiled": "kiln.building.compiled_file",
    "Conversion": "kiln.building.conversion",
    "Difference": "kiln.tflite.diff",
    "Explanation": "kiln.measure.quantisation",
    "Inspection": "kiln.tflite.inspect",
    "Measured": "kiln.measure.latency",
    "Verified": "kiln.release.any_form",
}


def __getattr__(name: str) -> Any:
    if name in _RESULTS:
        from importlib import import_module

        return getattr(import_module(_RESULTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Say what is in a ``.tflite`` file, any one: tensors, operators, weights, metadata, labels.

    Returns:
        ``text()`` is what ``kiln inspect`` prints, ``as_json()`` the same as plain values,
        ``warnings`` what looks wrong.

    Raises:
        KilnError: there is no such file, or it is no TFLite model, or a damaged one.

    >>> import kiln
    >>> kiln.inspect("tests/fixtures/toy_ssd.tflite").as_json()["precision"]["kind"]
    'float32'
    """
    from kiln.core.files import system_guard
    from kiln.tflite.inspect import inspect as look

    with system_guard():
        return look(Path(path))


def diff(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> Difference:
    """Say how two ``.tflite`` files differ, any two.

    Returns:
        ``identical`` (every byte), ``same_model`` (graph and weights), ``verdict`` (one sentence);
        ``text()`` is what ``kiln diff`` prints, ``as_json()`` the same as plain values.

    Raises:
        KilnError: a file is not there, or is no TFLite model, or a damaged one.

    >>> import kiln
    >>> kiln.diff("tests/fixtures/toy_ssd.tflite", "tests/fixtures/toy_ssd.tflite").identical
    True
    """
    from kiln.core.files import system_guard
    from kiln.tflite.diff import compare

    with system_guard():
        return compare(Path(a), Path(b))


def verify(
    path: str | os.PathLike[str],
    *,
    key: str | os.PathLike[str] | None = None,
    identity: str | None = None,
    issuer: str | None = None,
    policy: str | os.PathLike[str] | None = None,
    trusted_root: str | os.PathLike[str] | None = None,
    ignore_git: bool = False,
) -> Verified:
    """Check signatures, digests, provenance and that nothing is missing or was added.

    Nothing is asked of any network.

    Args:
        path: a release folder, an archive of one (.tar, .tar.gz, .tgz, .zip), or one ``.tflite``
            file with its bundles beside it.
        key: the trusted public key; by default your own.
        identity: whom to trust in the place of a key, with ``issuer``.
        issuer: the address of the identity provider that issued ``identity``.
        policy: a trust file, which says who may sign what.
        trusted_root: the keys behind identities; by default sigstore's public ones.
        ignore_git: whether to pass over ``.git``, ``.gitignore``, ``.gitattributes`` and
            ``.github``, in the release's folder and in its models'.

    Raises:
        KilnError: something does not hold. Do not use the files.

    >>> import kiln
    >>> kiln.verify("dist", key="publisher.pub").models  # doctest: +SKIP
    ('ssd_mobilenet_v2_oidv4',)
    """
    from kiln.core.files import system_guard
    from kiln.release.any_form import verify_any
    from kiln.signing.trust_options import choose_trust

    with system_guard():
        chosen = choose_trust(_path(key), identity, issuer, _path(policy), _path(trusted_root))
        return verify_any(Path(path), chosen, ignore_git=ignore_git)


def convert(
    checkpoint: str | os.PathLike[str] | None = None,
    *,
    label_map: str | os.PathLike[str],
    output: str | os.PathLike[str],
    saved_model: str | os.PathLike[str] | None = None,
    pipeline_config: str | os.PathLike[str] | None = None,
    model_maker: str | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    calibration: str | os.PathLike[str] | None = None,
    images: str | os.PathLike[str] | None = None,
    variants: Sequence[str] = (),
    max_detections: int | None = None,
    score_threshold: float | None = None,
    image_size: tuple[int, int] | None = None,
    output_order: str = "tf2",
    regular_nms: bool = False,
    nms_score_threshold: float | None = None,
    nms_iou_threshold: float | None = None,
    max_detections_per_class: int | None = None,
    inference_io: str = "uint8",
    postprocess: str = "tflite",
    float_layers: Sequence[str] = (),
    name: str | None = None,
    title: str | None = None,
    description: str | None = None,
    licence: str | None = None,
    author: str | None = None,
    model_version: str | None = None,
    allow: Sequence[str] = (),
    on_event: Callable[..., None] | None = None,
) -> Conversion:
    """Convert a model of your own and publish it, signed, in a release folder.

    As ``kiln convert``: it needs a container engine, and builds the sealed images if the engine
    does not hold them.

    Args:
        checkpoint: the folder of a training, or one checkpoint (``training/ckpt-7``).
        label_map: the training's label map.
        output: the release's folder; models that are in it stay.
        saved_model: where there is no checkpoint: an exported SavedModel.
        pipeline_config: the training's ``pipeline.config``; by default the one beside it.
        model_maker: for an EfficientDet-Lite, ``efficientdet_lite0`` to ``efficientdet_lite4``.
        mean: what a SavedModel wants subtracted from pixels: one number, or three.
        std: what it wants them divided by.
        calibration: a folder of images that int8 and int16x8 measure on.
        images: a folder of images to check the result on.
        variants: of ``float32``, ``float16``, ``dynamic``, ``int8``, ``int16x8``; by default the
            first three, and int8 with images.
        max_detections: how many detections the model gives; by default its own number.
        score_threshold: the least score worth showing, declared in the metadata.
        image_size: height and width of the input in pixels; by default the model's own.
        output_order: ``tf1`` for outputs in the order boxes, classes, scores, count; by default
            they are as the converter orders them.
        regular_nms: suppress overlapping boxes within each class, not across classes.
        nms_score_threshold: the least score of a box to output; by default the model's own.
        nms_iou_threshold: the overlap from which a box is suppressed; likewise.
        max_detections_per_class: how many boxes of one class to output, with ``regular_nms``.
        inference_io: type of the int8 variant's input: ``uint8``, or ``int8`` for
            microcontrollers.
        postprocess: ``none`` for raw boxes and scores, which a program has to decode; by default
            they are decoded in the graph.
        float_layers: layers that int8 and int16x8 leave in float, or kinds of operators, by the
            names that ``kiln explain-int8`` lists.
        name: of the model; by default after the files' folder. It, ``title``, ``description``,
            ``licence``, ``author`` and ``model_version`` are in the metadata.
        allow: faults that do not keep the model from being published.
        on_event: called with the name and the fields of each event, as ``kiln convert --json``
            prints them; from several threads.

    Raises:
        KilnError: it cannot be converted, or a check failed; then nothing is published.

    >>> import kiln
    >>> made = kiln.convert(
    ...     "training", label_map="label_map.pbtxt", output="release"
    ... )  # doctest: +SKIP
    >>> made.path("float32")  # doctest: +SKIP
    PosixPath('/home/me/release/training/training_float32.tflite')
    """
    from kiln.building.conversion import convert as make
    from kiln.building.from_training import Given
    from kiln.core.files import system_guard

    with system_guard():
        given = Given(
            checkpoint=_path(checkpoint),
            label_map=Path(label_map),
            saved_model=_path(saved_model),
            mean=_numbers(mean),
            std=_numbers(std),
            pipeline_config=_path(pipeline_config),
            spec=model_maker,
            calibration=_path(calibration),
            images=_path(images),
            variants=tuple(variants),
            max_detections=max_detections,
            score_threshold=score_threshold,
            image_size=image_size,
            output_order=output_order,
            regular_nms=regular_nms,
            nms_score_threshold=nms_score_threshold,
            nms_iou_threshold=nms_iou_threshold,
            max_detections_per_class=max_detections_per_class,
            inference_io=inference_io,
            postprocess=postprocess,
            float_layers=tuple(float_layers),
            name=name,
            title=title,
            description=description,
            licence=licence,
            author=author,
            version=model_version,
            allow=tuple(allow),
        )
        return make(given, Path(output), on_event)


def annotate(
    file: str | os.PathLike[str],
    *,
    label_map: str | os.PathLike[str],
    output: str | os.PathLike[str],
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    fit: str | None = None,
    fill: float | Sequence[float] | None = None,
    sampling: str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    pipeline_config: str | os.PathLike[str] | None = None,
    model_maker: str | None = None,
    images: str | os.PathLike[str] | None = None,
    allow: Sequence[str] = (),
    roles: Mapping[str, str] | None = None,
    score_threshold: float | None = None,
    name: str | None = None,
    description: str | None = None,
    model_version: str | None = None,
    author: str | None = None,
    licence: str | None = None,
    force: bool = False,
    on_event: Callable[..., None] | None = None,
) -> Annotated:
    """Write a detector's ``.tflite`` with labels, normalisation and roles of the outputs.

    As ``kiln annotate``: it needs a container engine, and leaves graph and weights as they are, but
    for shapes that the outputs lack.

    Args:
        file: the finished file, from wherever.
        label_map: the training's label map.
        output: the file to write; a record goes beside it.
        mean: what is subtracted from pixels: one number, or three; by default a uint8 input's own.
        std: what they are divided by; likewise.
        fit: how its training fitted pictures to the input: ``letterbox`` or ``stretch``.
        fill: of a letterbox: the pixel value of the rest, one number, or three.
        sampling: ``corner`` if pictures were resized by the Object Detection API; by default
            ``half-pixel``.
        checkpoint: the training, or one checkpoint, to check the file against.
        pipeline_config: its ``pipeline.config``; by default the one beside it.
        model_maker: for an EfficientDet-Lite, ``efficientdet_lite0`` to ``efficientdet_lite4``.
        images: a folder of images to check on.
        allow: faults that do not keep the file from being written.
        roles: which output is ``boxes``, ``classes``, ``scores`` and ``count``, by name; by
            default as the graph tells.
        score_threshold: the least score worth showing, declared in the metadata.
        name: of the model. It, ``description``, ``model_version``, ``author`` and ``licence`` are
            in the metadata.
        force: whether to replace metadata, and files, that are there already.
        on_event: called with the name and the fields of each event.

    Raises:
        KilnError: it cannot be done, or a check failed; then nothing is written.

    >>> import kiln
    >>> made = kiln.annotate(
    ...     "detect.tflite", label_map="labels.pbtxt", output="made.tflite", mean=127.5, std=127.5
    ... )  # doctest: +SKIP
    >>> made.record["proof"]  # doctest: +SKIP
    'none'
    """
    from kiln.building.annotation import annotate_file
    from kiln.building.annotation_request import Wanted, source_of
    from kiln.core.files import system_guard

    texts = {
        "name": name, "description": description, "version": model_version, "author": author,
        "license": licence,
    }  # fmt: skip
    with system_guard():
        wanted = Wanted(
            file=Path(file),
            label_map=Path(label_map),
            mean=_numbers(mean),
            std=_numbers(std),
            fit=fit,
            fill=_numbers(fill),
            sampling=sampling,
            roles=dict(roles or {}),
            score_threshold=score_threshold,
            texts={key: text for key, text in texts.items() if text is not None},
            source=source_of(
                _path(checkpoint), _path(pipeline_config), model_maker, _path(images), allow
            ),
        )
        return annotate_file(wanted, Path(output), on_event, force=force)


def compile(
    file: str | os.PathLike[str],
    *,
    target: str,
    output: str | os.PathLike[str],
    compiler: str | os.PathLike[str] | None = None,
    system_config: str | None = None,
    memory_mode: str | None = None,
    least_mapped: float | None = None,
    timeout: float = 600,
    force: bool = False,
    on_event: Callable[..., None] | None = None,
) -> Compiled:
    """Compile an int8 ``.tflite`` for an NPU; its labels and metadata are kept.

    As ``kiln compile``: it needs a container engine. By default with Arm's Vela, for an Ethos-U.

    Args:
        file: the finished file.
        target: the NPU, such as ``ethos-u65-256``; for another compiler, what it calls it.
        output: the file to write; a record and a provenance, signed with your own key, go beside
            it.
        compiler: another one, ``--with`` of the command: the path of a program, or of a folder with
            one called ``compile``, or the name of an image.
        system_config: Vela's: clock and memories of the chip.
        memory_mode: Vela's: which memory holds what.
        least_mapped: the least share of operators on the NPU, 0 to 1; by default 0.9.
        timeout: seconds that the compiler may take.
        force: whether to replace files that are there already.
        on_event: called with the name and the fields of each event.

    Raises:
        KilnError: it cannot be compiled, or the compiler failed; then nothing is written.

    >>> import kiln
    >>> made = kiln.compile(
    ...     "boats_int8.tflite", target="ethos-u65-256", output="boats_npu.tflite"
    ... )  # doctest: +SKIP
    >>> made.record["operators"]  # doctest: +SKIP
    {'cpu': 3, 'npu': 96}
    """
    from kiln.building.compiled_file import Wanted, compile_file
    from kiln.core.files import system_guard

    with system_guard():
        wanted = Wanted(
            file=Path(file),
            target=target,
            compiler=None if compiler is None else os.fspath(compiler),
            system_config=system_config,
            memory_mode=memory_mode,
            least_mapped=least_mapped,
            timeout=timeout,
        )
        return compile_file(wanted, Path(output), on_event or _ignore, force=force)


def bench_model(
    names: Sequence[str | os.PathLike[str]] = (),
    *,
    dist: str | os.PathLike[str] | None = None,
    variants: Sequence[str] = (),
    threads: Sequence[int] = (),
    warmup: int = 5,
    runs: int | None = None,
    seconds: float | None = None,
    save: bool = False,
    on_event: Callable[..., None] | None = None,
) -> Measured:
    """Time ``.tflite`` files on this machine's processor, under LiteRT, in turns.

    As ``kiln bench-model``: it needs a container engine. Compare times of one call, not of
    different ones.

    Args:
        names: models in ``dist``, and files; by default all that is in ``dist``.
        dist: the release's folder; by default the project's ``dist``.
        variants: only these.
        threads: numbers of threads; by default one, and one for each processor.
        warmup: rounds that are not counted.
        runs: rounds that are; by default 30.
        seconds: run rounds for this long instead, for each number of threads.
        save: whether to record the times in the release, too, and sign that.
        on_event: called with the name and the fields of each event.

    Raises:
        KilnError: there is no such file, or no engine. A file that cannot be timed is no error: it
            is in ``failed``, with the reason.

    >>> import kiln
    >>> times = kiln.bench_model(["boats_int8.tflite"], threads=[1])  # doctest: +SKIP
    >>> times.runs[0].median_ms  # doctest: +SKIP
    7.9
    """
    from kiln.core.files import system_guard
    from kiln.core.store import Store
    from kiln.measure.bench import Wanted, bench

    with system_guard():
        wanted = Wanted(
            names=tuple(os.fspath(name) for name in names),
            dist=_path(dist),
            variants=tuple(variants),
            threads=tuple(threads),
            warmup=warmup,
            runs=runs,
            seconds=seconds,
            save=save,
        )
        return bench(wanted, Store(Store.default_root()), on_event or _ignore)


def explain_int8(
    model: str,
    *,
    models_dir: str | os.PathLike[str] | None = None,
    archive: str | os.PathLike[str] | None = None,
    on_event: Callable[..., None] | None = None,
) -> Explanation:
    """Measure what each layer of a recipe's model loses in int8.

    As ``kiln explain-int8``: it needs a container engine.

    Args:
        model: the recipe's name.
        models_dir: where recipes are; by default the project's ``models``.
        archive: the source's archive, if it is on this machine already.
        on_event: called with the name and the fields of each event.

    Returns:
        ``worst()`` lists the layers, the one that loses most first, by the names that
        ``float_layers`` of :func:`convert` takes.

    Raises:
        KilnError: there is no such recipe, it has no variant int8, or it cannot be converted.

    >>> import kiln
    >>> found = kiln.explain_int8("boats", models_dir="models")  # doctest: +SKIP
    >>> found.worst()[0].name  # doctest: +SKIP
    'net/Conv1/Relu6'
    """
    from kiln.core.files import system_guard
    from kiln.core.store import Store
    from kiln.measure.quantisation import explain_model

    with system_guard():
        return explain_model(
            model,
            Store(Store.default_root()),
            on_event or _ignore,
            models_dir=_path(models_dir),
            archive=_path(archive),
        )


def _ignore(event: str, **fields: Any) -> None:
    pass


def _path(given: str | os.PathLike[str] | None) -> Path | None:
    return None if given is None else Path(given)


def _numbers(given: float | Sequence[float] | None) -> tuple[float, ...] | None:
    if given is None:
        return None
    return tuple(given) if isinstance(given, Sequence) else (given,)
