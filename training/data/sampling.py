"""Which training images of a set a stage takes: all, or a seeded sample that has its share of every session."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from training.data.dataset import IMAGE_FILES
from training.data.picture import session_of
from training.errors import DataError, RecipeError

IMAGES = IMAGE_FILES | {'.bmp'}
ALL = 'all'
ImageRange = int | tuple[int, int] | str
"""So many of a set's training images, those from one place up to another in the order of the sample, or `all`."""
SESSIONS, NAMES = 'sessions', 'names'
SAMPLES = (SESSIONS, NAMES)
"""`sessions`: a seeded draw, in which each session has its share; `names`: the first ones by their names."""


def training_images(folder: Path, wanted: ImageRange, sample: str, seed: int) -> list[Path]:
    """Training images of a set, in the order of their names.

    Args:
        folder: a prepared set, or a folder with images.
        wanted: how many. A larger number takes the same ones and more, and ranges that do not overlap share none.
        sample: one of SAMPLES.
        seed: of the draw.

    Raises:
        RecipeError: the set has fewer.
    """
    place = folder / 'images' / 'train'
    place = place if place.is_dir() else folder / 'images'
    images = sorted(path for path in place.iterdir() if path.suffix.lower() in IMAGES)
    if wanted == ALL:
        wanted = (0, len(images))
    start, stop = wanted if isinstance(wanted, tuple) else (0, int(wanted))
    if not 0 <= start < stop <= len(images):
        raise RecipeError(
            f'{folder} holds {len(images)} training images, but a stage asks for {start} to {stop}; `all` takes what there is'
        )
    if sample == NAMES or stop - start == len(images):
        return images[start:stop]
    drawn = stratified(images, sessions_of(folder, images), seed)[start:stop]
    return sorted(drawn)


def stratified(images: Sequence[Path], sessions: Sequence[str], seed: int) -> list[Path]:
    """The images in an order of which every beginning holds each session in proportion.

    Example:
        >>> names = [Path(f'{session}_{number}') for session, count in (('a', 6), ('b', 3)) for number in range(count)]
        >>> [name.name[0] for name in stratified(names, [name.name[0] for name in names], seed=0)].count('a')
        6
        >>> sorted(name.name[0] for name in stratified(names, [name.name[0] for name in names], seed=0)[:3])
        ['a', 'a', 'b']
    """
    rng = np.random.default_rng(seed)
    places: dict[str, list[int]] = {}
    for place, session in enumerate(sessions):
        places.setdefault(session, []).append(place)
    keys = np.empty(len(images))
    for session in sorted(places):
        members = rng.permutation(places[session])
        keys[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return [images[int(place)] for place in np.argsort(keys, kind='stable')]


def sessions_of(folder: Path, images: Sequence[Path]) -> list[str]:
    """The session of each image as its source says, else as its name does."""
    known = _stated_sessions(folder / 'annotations' / 'train.json')
    return [known.get(image.name) or session_of(image.name) for image in images]


def _stated_sessions(file: Path) -> Mapping[str, str]:
    if not file.is_file():
        return {}
    try:
        images = json.loads(file.read_bytes())['images']
        return {str(image['file_name']): str(image['session']) for image in images if image.get('session')}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f'{file} is no list of images: {error}') from error
