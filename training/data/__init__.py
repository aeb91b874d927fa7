"""Data sets: converters and makers, all to one form on disk (`training.data.dataset`)."""
