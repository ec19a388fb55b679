"""Reading, inspecting and comparing ``.tflite`` files of any origin: standard library only, no byte
of a file is trusted. Neighbours use :mod:`kiln.tflite.inspect` and :mod:`kiln.tflite.diff`;
:mod:`kiln.tflite.reading` is what both read files with, and :mod:`kiln.tflite.flexbuffer` decodes
the options of custom operators.
"""
