"""Architectures of detectors: by name, from a yaml or from a file's mapping, checked before they are built.

The YOLOv4 family is ours and does without Ultralytics, which is imported for its own networks alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from training.errors import WeightsError
from training.models.yolov4 import architecture as yolov4

LARGEST_YAML = 200_000
MOST_CLASSES = 10_000


def build_network(architecture: str | Mapping[str, Any], classes: Sequence[str]) -> Any:
    """A detector with fresh weights.

    Args:
        architecture: a name of Ultralytics (`yolov8n.yaml`, `yolo11s.yaml`, `yolov5nu.yaml`, `rtdetr-l.yaml`), the path of a
            yaml file, or what such a file holds; see `training.models.yolov4.architecture` for that family.
        classes: the names of the classes.

    Raises:
        WeightsError: an unknown name, or an architecture that cannot be built.
    """
    names = checked_classes(classes)
    mapping = _named(architecture) if isinstance(architecture, str) else architecture
    if yolov4.is_yolov4(mapping):
        return yolov4.build(mapping, names)
    from training.models import ultralytics_architecture

    return ultralytics_architecture.build(mapping, names)


def checked_architecture(architecture: Any) -> dict[str, Any]:
    """A copy of an architecture that holds nothing but what is known to be harmless.

    Raises:
        WeightsError: an entry of another form.
    """
    if yolov4.is_yolov4(architecture):
        return yolov4.checked(architecture)
    from training.models import ultralytics_architecture

    return ultralytics_architecture.checked(architecture)


def of_ultralytics(name: str) -> Mapping[str, Any]:
    """An architecture that Ultralytics brings along.

    Raises:
        WeightsError: there is none of that name; the nearest is offered.
    """
    from training.models import ultralytics_architecture

    return ultralytics_architecture.of_ultralytics(name)


def _named(name: str) -> Mapping[str, Any]:
    path = Path(name)
    if '://' in name:
        raise WeightsError(f'{name} is an address; give a file, or a name of Ultralytics such as yolov8n.yaml')
    if not path.is_file():
        return of_ultralytics(name)
    if path.stat().st_size > LARGEST_YAML:
        raise WeightsError(f'{name} has {path.stat().st_size} bytes: that is no architecture')
    try:
        mapping = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise WeightsError(f'{path} cannot be read as an architecture: {error}') from error
    if yolov4.is_yolov4(mapping):
        return dict(mapping)
    from training.models import ultralytics_architecture

    return ultralytics_architecture.read_yaml(path)


def checked_classes(classes: Any) -> tuple[str, ...]:
    """The names of classes as a tuple.

    Raises:
        WeightsError: no list of names.
    """
    is_list = isinstance(classes, Sequence) and not isinstance(classes, str) and 0 < len(classes) <= MOST_CLASSES
    if not is_list or not all(isinstance(name, str) and 0 < len(name) <= 200 for name in classes):
        raise WeightsError(f'classes must be 1 to {MOST_CLASSES} names')
    return tuple(classes)
