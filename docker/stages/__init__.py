"""Code that runs inside the images: the stages, and what they share.

A *stage* is a module of :mod:`stages.steps`, named like the stage, with

``ENVIRONMENT``
    ``"main"`` (the interpreter that runs this package: TensorFlow and the Object Detection API)
    or ``"metadata"`` (the TF-free interpreter with tflite-support), both in the image that the
    recipe names; or ``"device"`` (the interpreter of the image ``device``).
``PARAMS``
    every parameter by name with its default (:data:`stages.protocol.request.REQUIRED` where
    there is none). The runner refuses parameters that are not named here and fills in the
    defaults.
``run(params, inputs, out, emit) -> facts``
    the work. ``inputs`` maps names to existing paths, ``out`` is an empty folder, ``emit`` an
    :class:`stages.protocol.events.Emitter`; the returned facts are JSON data. A stage reads
    nothing else and writes nowhere else.

Code that several stages share is in the other packages, by subject; pyproject.toml states which
may import which.

Importing a stage module must be cheap (standard library only): the runner imports every stage
of a request to learn its environment, so anything heavy is imported inside ``run``.

Everything here is written for Python 3.9, the oldest interpreter of the images.
"""
