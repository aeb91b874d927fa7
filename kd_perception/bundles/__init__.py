"""Model bundles: their schema and loading, and how foreign ONNX files become bundles."""
