"""Build, restore and export models of TensorFlow's Object Detection API, with verified restores and
reproducible bytes. All code imports TensorFlow through :mod:`stages.odapi.tensorflow_setup`.
"""
