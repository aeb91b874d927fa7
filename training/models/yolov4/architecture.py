"""YOLOv4's architecture as a mapping, as recipes and weights files hold it: `{family: yolov4, backbone: mobilenet_v2}`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from training.errors import WeightsError
from training.models.yolov4.network import ANCHORS, YOLOv4
from training.schema import nearest

FAMILY = 'yolov4'
ENTRIES = ('family', 'backbone', 'neck', 'width', 'anchors')
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
    backbone, neck = entries.get('backbone', 'cspdarknet53'), entries.get('neck', 'full')
    if not isinstance(backbone, str) or not isinstance(neck, str):
        raise WeightsError('backbone and neck are names')
    width = entries.get('width', 1.0)
    if isinstance(width, bool) or not isinstance(width, (int, float)) or not SLIMMEST <= width <= WIDEST:
        raise WeightsError(f"width is a share of the neck's channels, {SLIMMEST:g} to {WIDEST:g}, not {width!r}")
    anchors = _checked_anchors(entries.get('anchors', ANCHORS))
    return {'family': FAMILY, 'backbone': backbone, 'neck': neck, 'width': float(width), 'anchors': anchors}


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
    network = YOLOv4(len(classes), mapping['backbone'], mapping['neck'], mapping['anchors'], mapping['width'])
    network.yaml = mapping
    network.names = dict(enumerate(classes))
    return network
