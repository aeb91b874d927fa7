"""Training networks: one loop for any task; detectors and classifiers give it batches, a loss and a measurement."""
