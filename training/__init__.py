"""Offline making of model bundles, run from a checkout: `python -m training --help`."""
