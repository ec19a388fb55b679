"""TensorFlow's Object Detection API: its models built, restored with proof, exported so that the
bytes repeat. :mod:`stages.odapi.tensorflow_setup` is how everybody imports TensorFlow.
"""
