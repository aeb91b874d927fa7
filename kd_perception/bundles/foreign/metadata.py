"""What exporters write beside the graph: task, classes, sizes, and whether the network ends with its own selection."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kd_perception.errors import BundleError

MAX_CHARACTERS = 200_000
MAX_CLASSES = 10_000
MAX_NAME_CHARACTERS = 100
_NAME_KEYS = ('names', 'classes', 'class_names', 'labels', 'id2label', 'label2id')
_SIZE_KEYS = ('imgsz', 'img_size', 'input_size')

TASKS: Mapping[str, str] = {
    'segment': 'a segmentation network: it gives masks, which are not decoded here',
    'pose': 'a pose network: it gives keypoints, which are not decoded here',
    'obb': 'a network of oriented boxes (OBB): they have an angle, which is not decoded here',
    'classify': 'a classification network: it says what is in a picture, not where',
}
"""Ultralytics' name of a task that is no detection → what the network is."""

_TASK_WORDS = {
    'segment': 'segment',
    'pose': 'pose',
    'keypoint': 'pose',
    'obb': 'obb',
    'oriented': 'obb',
    'classif': 'classify',
}


@dataclass(frozen=True)
class Stated:
    """What the metadata says; None and empty where it says nothing.

    Attributes:
        exporter: who wrote it: `Ultralytics`, what the file says, or empty.
        task: `detect`, `segment`, …
        head: class of the network's last part, in Ultralytics' words.
        end2end: whether overlapping boxes are removed in the graph.
        size: width and height.
        batch: images in one batch.
        channels: of the image.
        names: class id → name.
        license, description: of the weights.
    """

    exporter: str = ''
    task: str = ''
    head: str = ''
    end2end: bool | None = None
    size: tuple[int, int] | None = None
    batch: int | None = None
    channels: int | None = None
    names: Mapping[int, str] | None = None
    license: str = ''
    description: str = ''

    @property
    def class_counts(self) -> tuple[int, ...]:
        """How many classes there may be: names may leave ids out."""
        if not self.names:
            return ()
        return tuple(dict.fromkeys((len(self.names), max(self.names) + 1)))

    def class_names(self, count: int) -> tuple[str, ...]:
        """The names of `count` classes, each once; ids that the file leaves out are called `class_7`."""
        names = self.names or {}
        listed = [names[key] for key in sorted(names)] if len(names) == count else []
        return unique(listed or [names.get(key, f'class_{key}') for key in range(count)])


def read_metadata(metadata: Mapping[str, str]) -> Stated:
    """Read the entries that are known; what is malformed counts as not stated."""
    entries = {key.lower(): value for key, value in metadata.items() if len(value) <= MAX_CHARACTERS}
    by_ultralytics = 'ultralytics' in f'{entries.get("author", "")} {entries.get("description", "")}'.lower()
    end2end = _literal(entries.get('end2end', ''))
    nms = (_literal(entries.get('args', '')) or {}) if 'args' in entries else {}
    if isinstance(nms, dict) and nms.get('nms') is True:
        end2end = True
    batch, channels = _literal(entries.get('batch', '')), _literal(entries.get('channels', ''))
    return Stated(
        exporter='Ultralytics'
        if by_ultralytics or {'task', 'stride', 'imgsz'} <= entries.keys()
        else _shortened(entries),
        task=entries.get('task', '').strip().strip('\'"').lower(),
        head=entries.get('head', ''),
        end2end=end2end if isinstance(end2end, bool) else None,
        size=next((size for key in _SIZE_KEYS if (size := _size(entries.get(key, '')))), None),
        batch=batch if isinstance(batch, int) else None,
        channels=channels if isinstance(channels, int) else None,
        names=next((names for key in _NAME_KEYS if (names := _names(entries.get(key, '')))), None),
        license=entries.get('license', entries.get('licence', '')),
        description=entries.get('description', ''),
    )


def _shortened(entries: Mapping[str, str]) -> str:
    return ' '.join(entries.get('author', '').split())[:40]


def unique(names: list[str]) -> tuple[str, ...]:
    """Names as a bundle takes them: none empty or too long, none twice."""
    found: list[str] = []
    for number, name in enumerate(names):
        printable = ''.join(letter if letter.isprintable() else ' ' for letter in name)
        plain = ' '.join(printable.split())[: MAX_NAME_CHARACTERS - 8] or f'class_{number}'
        while plain in found:
            plain = f'{plain}_{number}'[-MAX_NAME_CHARACTERS:]
        found.append(plain)
    return tuple(found)


def _literal(text: str) -> Any:
    """A value written as Python or JSON; None where it is neither. Only literals are read."""
    if not 0 < len(text) <= MAX_CHARACTERS:
        return None
    for read in (ast.literal_eval, json.loads):
        try:
            return read(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            continue
    return None


def _names(text: str) -> dict[int, str] | None:
    """Class names: a list, or a mapping whose keys are ids, as numbers or text, or are the names themselves."""
    value = _literal(text)
    if value is None and re.fullmatch(r'[\w .\-/]+([,;\n][\w .\-/]+)+', text.strip()):
        value = [part.strip() for part in re.split('[,;\n]', text.strip())]
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if not isinstance(value, dict) or not 0 < len(value) <= MAX_CLASSES:
        return None
    if all(_as_id(entry) is not None for entry in value.values()) and not all(_as_id(key) is not None for key in value):
        value = {entry: key for key, entry in value.items()}
    ids = {_as_id(key): str(name) for key, name in value.items()}
    if None in ids or len(ids) != len(value) or max(key or 0 for key in ids) >= MAX_CLASSES:
        return None
    return dict(sorted((key or 0, name) for key, name in ids.items()))


def _as_id(key: Any) -> int | None:
    """A class id, as a number or its text."""
    if isinstance(key, bool):
        return None
    if isinstance(key, int) and key >= 0:
        return key
    return int(key) if isinstance(key, str) and key.strip().isdecimal() and len(key) < 8 else None


def _size(text: str) -> tuple[int, int] | None:
    """`imgsz`: height and width, or one side."""
    value = _literal(text)
    if isinstance(value, int) and not isinstance(value, bool):
        value = [value, value]
    if isinstance(value, (list, tuple)) and len(value) in (2, 4) and all(isinstance(v, int) for v in value):
        height, width = value[-2:]
        return (width, height) if min(width, height) > 0 else None
    return None


def check_task(stated: Stated) -> None:
    """Refuse what says of itself that it is no detector.

    Raises:
        BundleError: says what it is and what to do.
    """
    words = re.sub('[^a-z]', '', stated.task.lower())
    task = next((task for word, task in _TASK_WORDS.items() if word in words), '')
    if task:
        raise BundleError(f'it is {TASKS[task]}. Export a detection network of the same family (task detect)')
    if words and 'detect' not in words:
        raise BundleError(
            f'its metadata says that its task is {stated.task[:40]!r}; export a detection network (task detect)'
        )
