"""ONNX detectors as ncnn networks, made in memory at every load: `conversion.convert` is the way in."""
