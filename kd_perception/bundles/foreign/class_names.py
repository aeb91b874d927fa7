"""Class names as a user gives them: a list, a file, or the name of a well-known data set."""

from __future__ import annotations

from pathlib import Path

from kd_perception.bundles.foreign.metadata import MAX_CHARACTERS
from kd_perception.errors import BundleError
from kd_perception.regular_file import read_regular, shown

# fmt: off
COCO = (
    'person', 'bicycle', 'car', 'motorcycle', 'airplane', 'bus', 'train', 'truck', 'boat', 'traffic light',
    'fire hydrant', 'stop sign', 'parking meter', 'bench', 'bird', 'cat', 'dog', 'horse', 'sheep', 'cow', 'elephant',
    'bear', 'zebra', 'giraffe', 'backpack', 'umbrella', 'handbag', 'tie', 'suitcase', 'frisbee', 'skis', 'snowboard',
    'sports ball', 'kite', 'baseball bat', 'baseball glove', 'skateboard', 'surfboard', 'tennis racket', 'bottle',
    'wine glass', 'cup', 'fork', 'knife', 'spoon', 'bowl', 'banana', 'apple', 'sandwich', 'orange', 'broccoli', 'carrot',
    'hot dog', 'pizza', 'donut', 'cake', 'chair', 'couch', 'potted plant', 'bed', 'dining table', 'toilet', 'tv',
    'laptop', 'mouse', 'remote', 'keyboard', 'cell phone', 'microwave', 'oven', 'toaster', 'sink', 'refrigerator',
    'book', 'clock', 'vase', 'scissors', 'teddy bear', 'hair drier', 'toothbrush',
)
# fmt: on
"""The 80 classes of COCO, in the order of most detectors that were trained on it."""


def class_names(text: str) -> tuple[str, ...]:
    """`coco`, a text file with one name a line, or names with commas between them.

    Raises:
        BundleError: the file cannot be read, or there is no name.
    """
    if text.strip().lower() == 'coco':
        return COCO
    file = Path(text)
    if ',' not in text and ('/' in text or file.suffix in ('.txt', '.names', '.labels')):
        names = [line.strip() for line in _read(file).splitlines()]
    else:
        names = [name.strip() for name in text.split(',')]
    named = tuple(name for name in names if name)
    if not named:
        raise BundleError(f'--classes {text}: there is no name in it')
    return named


def _read(file: Path) -> str:
    try:
        return read_regular(file, MAX_CHARACTERS).decode()
    except UnicodeDecodeError as error:
        raise BundleError(f'--classes {shown(file)}: it is not text in UTF-8') from error
