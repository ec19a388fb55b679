"""TFLite Model Maker's EfficientDet-Lite: imported, built, restored from any of its checkpoints."""
