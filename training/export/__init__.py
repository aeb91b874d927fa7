"""Trained networks → ONNX graphs that take the camera's pixels."""
