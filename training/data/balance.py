"""What was read of a data set against what lies in the folder that was written of it: pictures and boxes, by split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.data.dataset import IMAGE_FILES
from training.data.picture import Picture
from training.errors import DataError

_FATES = {
    'learnt': 'written',
    'crowd': 'of crowds',
    'ignored': 'ignored regions',
    'background': 'of no class to learn',
    'twice': 'twice',
    'outside': 'not visible in their picture',
}


def balance(target: Path, split: str, pictures: Sequence[Picture], entries: Sequence[Mapping[str, Any]]) -> str:
    """Count a split in the source and in the files that were written, and compare.

    Args:
        target: folder of the written data set.
        split: its name.
        pictures: of the source.
        entries: what the conversion noted of each picture that it wrote.

    Returns:
        A line for people.

    Raises:
        DataError: the files hold other numbers than were written.
    """
    read = sum(picture.split == split for picture in pictures)
    images = [image for entry in entries for image in entry['images']]
    boxes = sum(not annotation.get('iscrowd') for image in images for annotation in image['annotations'])
    files, lines = _files(target, split)
    if (files, lines) != (len(images), boxes):
        raise DataError(
            f'{target}: {split} should hold {len(images)} pictures and {boxes} boxes, but holds {files} and {lines}; '
            'is the disk sound? Prepare it anew in an empty folder'
        )
    fates = Counter[str]()
    for entry in entries:
        fates.update(entry['boxes'])
    total = fates.pop('read', 0)
    fates['outside'] = total - fates.total()
    parts = [f'{fates[name]} {words}' for name, words in _FATES.items() if fates[name] or name == 'learnt']
    line = f'{split}: {read} pictures read, {len(entries)} written'
    line += f', {read - len(entries)} broken' if read > len(entries) else ''
    line += f', as {files} tiles with {lines} boxes' if files != len(entries) else ''
    return f'{line}; {total} boxes read: {", ".join(parts)}'


def _files(target: Path, split: str) -> tuple[int, int]:
    pictures = sum(file.suffix.lower() in IMAGE_FILES for file in (target / 'images' / split).iterdir())
    lines = sum(file.read_bytes().count(b'\n') for file in (target / 'labels' / split).iterdir())
    return pictures, lines
