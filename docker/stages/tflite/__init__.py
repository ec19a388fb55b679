"""Read, pack, annotate and reorder ``.tflite`` files without TensorFlow."""
