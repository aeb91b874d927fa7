"""Small data sets in the formats that the converters read."""

import json
from pathlib import Path

import cv2
import numpy as np

from training.data.dataset import LabeledImage, read_split
from training.data.sources import SourceSettings, prepare

WIDTH, HEIGHT = 80, 60


def write_text(path: Path, content: object) -> Path:
    """Text as it is, everything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def write_picture(path: Path, width: int = WIDTH, height: int = HEIGHT, ground: int = 90) -> Path:
    """A grey picture with a red rectangle from (10, 20) to (30, 40)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((height, width, 3), ground, np.uint8)
    image[20:40, 10:30] = (0, 0, 255)
    assert cv2.imwrite(str(path), image)
    return path


def converted(folder: Path, target: Path, split: str = 'train', **settings: object) -> list[LabeledImage]:
    """The split of a source after its conversion."""
    prepare(SourceSettings(path=folder.name, **settings), folder.parent, target)
    return list(read_split(target, split))
