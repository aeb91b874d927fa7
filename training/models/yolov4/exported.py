"""A YOLOv4 put back together from the float graph that our exporter wrote of it.

Folding the normalizations took the names of the convolutions' tensors, but the nodes are named after the modules that they come
from. Anchors and the heads' last convolutions stand in the graph under names of their own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from training.errors import WeightsError
from training.models.yolov4.network import YOLOv4

ANCHORS = 'head.half_anchors'
TRACED_SIDE = 64
PLACES = 5
"""Outputs of an anchor before those of its classes."""


def anchors_of(stored: Mapping[str, Tensor], width: int, height: int, strides: tuple[int, ...]) -> list[Any]:
    """The anchors (3, 3, 2) in pixels; the graph holds half of each, once for every cell.

    Raises:
        WeightsError: it holds none, or not as many.
    """
    halves, levels = stored.get(ANCHORS), [3 * (width // stride) * (height // stride) for stride in strides]
    if halves is None or tuple(halves.shape) != (sum(levels), 2):
        raise WeightsError('the graph is none that our exporter wrote of a YOLOv4')
    return [(2 * part[:3]).tolist() for part in halves.split(levels)]


def module_of(node: str) -> str:
    """The name in YOLOv4 of the module that a node of the graph comes from.

    Example:
        >>> module_of('/body/body.0/body/blocks.3/blocks.3.0/conv_dw/Conv')
        'backbone.body.blocks.3.0.conv_dw'
    """
    parts: list[str] = []
    for part in node.strip('/').split('/')[:-1]:
        if parts and part.startswith(f'{parts[-1]}.'):  # a list's entry is named after the list
            parts.pop()
        parts.append(part)
    name = '.'.join(parts)
    for theirs, ours in (('body.0.', 'backbone.'), ('body.1.', 'neck.'), ('head.branches.', 'heads.')):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def normalized(network: YOLOv4) -> dict[str, tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Every convolution with a normalization behind it in the forward pass, and that, by the convolution's name."""
    seen: list[nn.Module] = []
    names = {layer: name for name, layer in network.named_modules() if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d))}
    hooks = [layer.register_forward_hook(lambda layer, *_: seen.append(layer)) for layer in names]
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, TRACED_SIDE, TRACED_SIDE))
    for hook in hooks:
        hook.remove()
    return {
        names[convolution]: (convolution, norm)
        for convolution, norm in itertools.pairwise(seen)
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    }


@torch.no_grad()
def fill_heads(network: YOLOv4, products: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Fill the heads' last convolutions.

    Args:
        products: weight (outputs, inputs) and bias of each product by the name of its weight.

    Raises:
        WeightsError: one is missing or has another shape.
    """
    for level, head in enumerate(cast(Iterable[nn.Sequential], network.heads)):
        last = cast(nn.Conv2d, head[-1])
        assert last.bias is not None
        weight = last.weight.view(3, PLACES + network.classes, -1)
        bias = last.bias.view(3, PLACES + network.classes)
        for name, rows in (('places', slice(0, PLACES)), ('logits', slice(PLACES, None))):
            given = products.get(f'head.{name}.{level}.weight')
            if given is None or given[0].shape != weight[:, rows].flatten(0, 1).shape:
                raise WeightsError(f'head.{name}.{level} is missing or has another shape')
            weight[:, rows] = given[0].view_as(weight[:, rows])
            bias[:, rows] = given[1].view_as(bias[:, rows])
