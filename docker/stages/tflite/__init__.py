"""``.tflite`` files without TensorFlow: read, packed, given metadata, put in order."""
