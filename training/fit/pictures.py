"""The image sets of a training, with the cache that its settings ask for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training.data.loader import ImageSet
from training.data.picture_cache import InMemory, NoCache, OnDisk, PictureCache
from training.fit.job import FitJob


def image_set(job: FitJob, folder: Path, files: Sequence[Path], *, labelled: bool) -> ImageSet:
    """Images of a job as its settings show them; `folder` is the training's.

    Raises:
        DataError: see ImageSet.
    """
    settings = job.settings
    return ImageSet(
        files,
        len(job.classes),
        settings.image_size,
        settings.augment,
        labelled=labelled,
        skip_broken=settings.broken_images == 'skip',
        cache=_cache(job, folder),
    )


def _cache(job: FitJob, folder: Path) -> PictureCache:
    """Each image set has its own, of half the room where there are two."""
    settings = job.settings
    limit = settings.cache_gb * 1e9 / (2 if job.unlabelled else 1)
    if settings.cache == 'none':
        return NoCache()
    if settings.cache == 'disk':
        answers = job.answers or folder / 'answers'
        return OnDisk(answers.parent / 'pictures', settings.image_size, limit)
    return InMemory(limit)
