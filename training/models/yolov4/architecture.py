"""YOLOv4's architecture as a mapping, as recipes and weights files hold it: `{family: yolov4, backbone: mobilenet_v2}`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from training.errors import WeightsError
from training.models.yolov4.network import ANCHORS, MATCH, YOLOv4
from training.schema import nearest

FAMILY = 'yolov4'
ENTRIES = ('family', 'backbone', 'neck', 'width', 'match', 'assignment', 'anchors')
SLIMMEST, WIDEST = 0.05, 4.0
LARGEST_ANCHOR = 10_000.0


def is_yolov4(architecture: Any) -> bool:
    """Whether a mapping is of this family."""
    return isinstance(architecture, Mapping) and architecture.get('family') == FAMILY


def checked(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """A whole copy: what is left out is YOLOv4's own.

    Raises:
        WeightsError: an entry that is unknown or of another form.
    """
    # Ultralytics' reader of yaml files adds these two.
    entries = {name: value for name, value in architecture.items() if name not in ('yaml_file', 'scale')}
    for name in entries:
        if name not in ENTRIES:
            raise WeightsError(
                f'the architecture has no entry {name!r}{nearest(str(name), ENTRIES)}; entries are {", ".join(ENTRIES)}'
            )
    names = {'backbone': 'cspdarknet53', 'neck': 'full', 'assignment': 'cell'}
    names = {entry: entries.get(entry, usual) for entry, usual in names.items()}
    if not all(isinstance(name, str) for name in names.values()):
        raise WeightsError(f'{", ".join(names)} are names')
    return {
        'family': FAMILY,
        **names,
        'width': _within(entries, 'width', 1.0, SLIMMEST, WIDEST),
        'match': _within(entries, 'match', MATCH, 0, 1),
        'anchors': _checked_anchors(entries.get('anchors', ANCHORS)),
    }


def _within(entries: Mapping[str, Any], name: str, usual: float, least: float, most: float) -> float:
    value = entries.get(name, usual)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise WeightsError(f'{name} must be a number from {least:g} to {most:g}, not {value!r}')
    return float(value)


def _checked_anchors(anchors: Any) -> list[list[list[float]]]:
    try:
        found = [[[float(side) for side in size] for size in of_stride] for of_stride in anchors]
    except (TypeError, ValueError) as error:
        raise WeightsError(
            f'anchors must be numbers: three [width, height] for each of three strides: {error}'
        ) from error
    shapes = [[len(size) for size in of_stride] for of_stride in found]
    if shapes != [[2] * 3] * 3:
        raise WeightsError('anchors must be three [width, height] for each of three strides, finest first')
    if not all(0 < side <= LARGEST_ANCHOR for of_stride in found for size in of_stride for side in size):
        raise WeightsError(f'anchors are widths and heights in pixels, over 0 and at most {LARGEST_ANCHOR:g}')
    return found


def build(architecture: Mapping[str, Any], classes: Sequence[str]) -> YOLOv4:
    """A network with fresh weights that carries its architecture, as those of `training.models.architecture` do.

    Raises:
        WeightsError: as `checked`; no such backbone or neck.
    """
    mapping = checked(architecture)
    settings = {name: value for name, value in mapping.items() if name != 'family'}
    network = YOLOv4(len(classes), **settings)
    network.yaml = mapping
    network.names = dict(enumerate(classes))
    return network
