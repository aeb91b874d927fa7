"""Measurements of the package on this machine: `python -m benchmarks`."""
