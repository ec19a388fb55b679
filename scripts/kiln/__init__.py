"""tflite-kiln: TensorFlow object detectors to TFLite, in sealed images, byte for byte."""

from kiln.core.version import __version__

__all__ = ["__version__"]
