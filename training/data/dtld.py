"""DriveU Traffic Light Dataset v2: 16-bit Bayer pictures and traffic lights, as two classes.

<folder>/<labels>.json                             DTLD_train.json, DTLD_test.json
<folder>/<city>/<route>/<sequence>/<file>.tiff     wherever the JSON says that they are

The rules of both classes are those of the fine-grained imitation report: a light counts as relevant where it applies to
the lane, shows a colour, is not occluded and is none of pedestrians, trams and bicycles.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from kd_perception.bags.ground_truth import AnnotatedObject
from training.data.picture import Image, Picture, Problems, Source, entries_of, inside, read_json
from training.errors import DataError

CLASSES = ('relevant', 'not_relevant')
COLORS = frozenset({'red', 'yellow', 'green', 'red_yellow'})
OTHER_ROAD_USERS = frozenset({'pedestrian', 'tram', 'bicycle'})
SIZE = (2048, 1024)
"""Width and height of the camera's pictures; boxes are in their pixels."""
MAX_FILE_BYTES = 256 << 20


def read(folder: Path) -> Source:
    """All label files of the folder; those named `*test*` make the test split, the others train.

    Raises:
        DataError: no label file, or one that is not of the format.
    """
    files = sorted(folder.glob('*.json')) or sorted(folder.glob('*/*.json'))
    if not files:
        raise DataError(f'{folder} holds no label file such as DTLD_train.json; is this the data set folder?')
    problems = Problems()
    pictures = [
        picture
        for file in files
        for number, entry in enumerate(entries_of(file, read_json(file), 'images'))
        if (picture := _picture(folder, file, number, entry, problems)) is not None
    ]
    return Source(tuple(sorted(pictures, key=lambda picture: picture.name)), CLASSES, problems=tuple(problems.found))


def _picture(folder: Path, labels: Path, number: int, entry: Any, problems: Problems) -> Picture | None:
    try:
        name = '/'.join(PurePosixPath(str(entry['image_path'])).parts[-4:])
        file = inside(folder, name)
        listed = entry.get('labels') or []
        objects = tuple(_objects(f'{labels.name}: {name}', listed, problems))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, DataError) as error:
        problems.add('annotation that cannot be read', f'{labels.name}: image {number}', _reason(error))
        return None
    session = str(PurePosixPath(name).parent)
    split = 'test' if 'test' in labels.stem.lower() else 'train'
    return Picture(name, lambda: read_bayer(file), objects, session, split, SIZE, file)


def _objects(where: str, labels: Any, problems: Problems) -> list[AnnotatedObject]:
    objects = []
    for number, label in enumerate(labels):
        try:
            x, y, width, height = (float(label[key]) for key in 'xywh')
            name = class_of(label.get('attributes') or {})
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            problems.add('annotation that cannot be read', f'{where}: label {number}', _reason(error))
            continue
        if not (width < 1 or height < 1):
            objects.append(AnnotatedObject((x, y, x + width, y + height), name))
    return objects


def class_of(attributes: Mapping[str, Any]) -> str:
    """`relevant` or `not_relevant`. An attribute that is missing speaks for neither pictogram nor occlusion."""
    relevant = (
        attributes.get('relevance') == 'relevant'
        and str(attributes.get('state')).replace('-', '_') in COLORS
        and attributes.get('occlusion', 'not_occluded') == 'not_occluded'
        and attributes.get('pictogram') not in OTHER_ROAD_USERS
    )
    return CLASSES[0] if relevant else CLASSES[1]


def read_bayer(file: Path) -> Image:
    """A picture of the data set in BGR: 12 bits of a GRBG mosaic in 16, of which the upper eight are kept.

    Raises:
        DataError: missing, or no such picture.
    """
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f'{file} has {file.stat().st_size} bytes; the limit is {MAX_FILE_BYTES}')
        mosaic = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    except (OSError, cv2.error) as error:
        raise DataError(f'{file} is not a readable image: {error}') from error
    if mosaic is None or mosaic.dtype != np.uint16 or mosaic.ndim != 2:
        found = 'no image' if mosaic is None else f'{mosaic.dtype} {mosaic.shape}'
        raise DataError(f'{file} is not a readable image of DTLD: 16-bit Bayer expected, found {found}')
    colors = np.asarray(cv2.cvtColor(mosaic, cv2.COLOR_BayerGB2BGR), np.uint16)
    image: Image = np.minimum(colors >> 4, 255).astype(np.uint8)
    return image


def _reason(error: Exception) -> str:
    return f'{type(error).__name__}: {error}'
