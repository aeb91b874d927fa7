"""One thread for torch, and repeatable weights: the tensors here are tiny. A teacher, and pictures to teach with."""

from small_trainings import _one_seed, _one_thread, pictures, teacher  # noqa: F401
