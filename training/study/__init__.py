"""Paired studies: the same seeds for every arm, all of them reported, differences with their intervals."""
