"""What networks put out while they are distilled: the maps between their layers and their heads' predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from training.errors import LossError
from training.models.yolov4.network import YOLOv4

Branch = Mapping[str, Any]
"""Of a YOLO: `boxes` (N, 4·bins, anchors), `scores` (N, classes, anchors), `feats`: the maps that the head reads. Of RT-DETR's
queries: `scores` (N, classes, Q) and `boxes` (N, 4, Q), x1, y1, x2, y2 as shares of the image."""
QUERIES = 'queries'


@dataclass(frozen=True)
class Outputs:
    """Of one forward pass.

    Attributes:
        maps: (N, C, H, W) by the layer's name.
        branches: of the head: `one2many`, and `one2one` where it has that too; `queries` of RT-DETR when it does not train.
    """

    maps: Mapping[str, Tensor]
    branches: Mapping[str, Branch]

    def part(self, images: slice | list[int]) -> Outputs:
        """The same of some images of the batch."""
        return Outputs(
            {name: value[images] for name, value in self.maps.items()},
            {name: part_of(branch, images) for name, branch in self.branches.items()},
        )


def part_of(predictions: Any, images: slice | list[int]) -> Any:
    """Some images of nested predictions of a batch."""
    if isinstance(predictions, Tensor):
        return predictions[images]
    if isinstance(predictions, Mapping):
        return {name: part_of(value, images) for name, value in predictions.items()}
    return [part_of(value, images) for value in predictions]


def to_float32(value: Any) -> Any:
    """Nested predictions in float32."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {name: to_float32(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(to_float32(item) for item in value)
    return value


def branches_of(predictions: Any) -> dict[str, Branch]:
    """The branches of what a YOLO's head put out in training form, or RT-DETR's in evaluation; none of others."""
    if isinstance(predictions, tuple) and len(predictions) == 2:  # detections, and what they are made of
        boxes, scores = (value[-1].transpose(1, 2) for value in predictions[1][:2])  # of the last layer
        halves = boxes[:, 2:] / 2
        return {QUERIES: {'scores': scores, 'boxes': torch.cat([boxes[:, :2] - halves, boxes[:, :2] + halves], 1)}}
    if not isinstance(predictions, Mapping):
        return {}
    if 'one2many' in predictions:
        return {name: predictions[name] for name in ('one2many', 'one2one')}
    return {'one2many': predictions}


class Probe:
    """Keeps the maps of some layers of a network's last forward pass.

    Args:
        network: a network of Ultralytics, whose layers are numbered.
        layers: names, see `layer_names`.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str]) -> None:
        self.maps: dict[str, Tensor] = {}
        self._hooks = [
            network.get_submodule(name).register_forward_hook(lambda _, __, value, name=name: self._keep(name, value))
            for name in dict.fromkeys(layers)
        ]

    def _keep(self, name: str, value: Any) -> None:
        if not isinstance(value, Tensor) or value.ndim != 4:
            raise LossError(f'layer {name} puts out no map (N, C, H, W): distil at another one')
        self.maps[name] = value

    def take(self) -> dict[str, Tensor]:
        """The maps since the last call, in float32; they are not kept any longer."""
        maps, self.maps = self.maps, {}
        return {name: value.float() for name, value in maps.items()}

    def remove(self) -> None:
        """Leave the network as it was."""
        for hook in self._hooks:
            hook.remove()


@dataclass(frozen=True)
class Shape:
    """What one network's layers and head look like.

    Attributes:
        channels: of each layer.
        sizes: (H, W) of each layer's map.
        levels: the layers that the head reads, fine to coarse.
        classes: of its head; 0 where it is no YOLO's.
        bins: of each side's distribution; 1 where the side itself is predicted, 0 where the head is no YOLO's.
        branches: of its head, see Outputs.
        strides: pixels of a cell on each level.
    """

    channels: Mapping[str, int]
    sizes: Mapping[str, tuple[int, int]]
    levels: tuple[str, ...]
    classes: int
    bins: int
    branches: tuple[str, ...]
    strides: tuple[float, ...]


def layer_names(network: Any, layers: Sequence[int | str]) -> tuple[str, ...]:
    """The names of layers given by number or name; those that the head reads where none is given.

    Raises:
        LossError: there is no such layer.
    """
    if not layers:
        layers = level_names(network)
    names = [f'model.{layer}' if isinstance(layer, int) or layer.isdigit() else layer for layer in layers]
    for name in names:
        try:
            network.get_submodule(name)
        except AttributeError as error:
            known = (
                ', '.join(network.levels)
                if isinstance(network, YOLOv4)
                else f'model.0 to model.{len(network.model) - 1}'
            )
            raise LossError(f'the network has no layer {name}; its layers are {known}') from error
    return tuple(names)


def level_names(network: Any) -> Sequence[int | str]:
    """The layers that the head reads, fine to coarse."""
    if isinstance(network, YOLOv4):
        return network.levels
    head = network.model[-1]
    return [place if place >= 0 else head.i + place for place in head.f]


def yolo_head(network: Any) -> Any:
    """The head of a YOLO of Ultralytics; None where there is another."""
    head = None if isinstance(network, YOLOv4) else network.model[-1]
    return head if hasattr(head, 'reg_max') else None


def has_queries(network: Any) -> bool:
    """Whether its head is RT-DETR's."""
    return not isinstance(network, YOLOv4) and hasattr(network.model[-1], 'num_queries')


@torch.no_grad()
def measure_shape(network: Any, layers: Sequence[str], image_size: int) -> Shape:
    """Run one grey image through a network, without any effect on it."""
    weight = next(network.parameters())
    levels = layer_names(network, ())
    probe = Probe(network, [*layers, *levels])
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        network(torch.full((1, 3, image_size, image_size), 0.45, device=weight.device, dtype=weight.dtype))
    finally:
        for module, mode in modes.items():
            module.training = mode
        probe.remove()
    maps = probe.take()
    head = yolo_head(network)
    branches = ('one2many', 'one2one') if getattr(head, 'one2one_cv2', None) is not None else ('one2many',)
    return Shape(
        channels={name: value.shape[1] for name, value in maps.items()},
        sizes={name: (value.shape[2], value.shape[3]) for name, value in maps.items()},
        levels=levels,
        classes=head.nc if head is not None else 0,
        bins=head.reg_max if head is not None else 0,
        branches=branches if head is not None else (QUERIES,) if has_queries(network) else (),
        strides=tuple(image_size / maps[name].shape[2] for name in levels),
    )


def decode(branch: Branch, bins: int, strides: Sequence[float]) -> Tensor:
    """The boxes (N, 4, anchors), x1, y1, x2, y2 in pixels, that a head predicts."""
    sides: Tensor = branch['boxes']
    if bins > 1:
        places = torch.arange(bins, dtype=sides.dtype, device=sides.device)
        sides = torch.einsum('nsba,b->nsa', sides.unflatten(1, (4, bins)).softmax(2), places)
    points, pixels = cell_centers(branch['feats'], strides)
    near, far = sides.chunk(2, 1)
    return torch.cat([points.T - near, points.T + far], 1) * pixels.T


def cell_centers(maps: Sequence[Tensor], strides: Sequence[float]) -> tuple[Tensor, Tensor]:
    """The cells of maps (N, C, H, W), level by level and row by row.

    Returns:
        Centres (cells, 2), x and y in cells of the level; pixels a cell (cells, 1).
    """
    centers, pixels = [], []
    for level, stride in zip(maps, strides, strict=True):
        rows, columns = (torch.arange(count).to(level) + 0.5 for count in level.shape[2:])
        y, x = torch.meshgrid(rows, columns, indexing='ij')
        centers.append(torch.stack([x.flatten(), y.flatten()], 1))
        pixels.append(torch.full_like(centers[-1][:, :1], stride))
    return torch.cat(centers), torch.cat(pixels)
