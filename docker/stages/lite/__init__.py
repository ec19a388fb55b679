"""Import, build and restore TFLite Model Maker's EfficientDet-Lite from any of its checkpoints."""
