"""tflite-kiln: TensorFlow object detectors to TFLite, in sealed images, byte for byte."""

__version__ = "0.1.0"
