"""Reading ``.tflite`` files of any origin on the host: standard library only, nothing trusted."""
