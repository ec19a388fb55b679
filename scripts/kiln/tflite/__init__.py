"""Read, inspect and compare ``.tflite`` files of any origin.

Standard library only. The files are untrusted. Neighbours use :mod:`kiln.tflite.inspect` and
:mod:`kiln.tflite.diff`; both read files with :mod:`kiln.tflite.reading`, and
:mod:`kiln.tflite.flexbuffer` decodes the options of custom operators.
"""
