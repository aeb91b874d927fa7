"""What pruning must know of a detector's family: the maps that its head reads, the head's branches, and what keeps its width.

Ultralytics is imported for its own networks alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from training.errors import PruneError
from training.models.yolov4.network import YOLOv4


def level_maps(network: Any, image: torch.Tensor) -> list[torch.Tensor]:
    """The feature maps (N, C, H, W) that the head reads, level by level."""
    if isinstance(network, YOLOv4):
        return list(network.neck(network.backbone(image)))
    outputs: list[Any] = []
    value: Any = image
    layers = list(network.model)
    for layer in layers[:-1]:
        if layer.f != -1:
            value = (
                outputs[layer.f] if isinstance(layer.f, int) else [outputs[k] if k != -1 else value for k in layer.f]
            )
        value = layer(value)
        outputs.append(value)
    return [outputs[k] for k in layers[-1].f]


def head_maps(network: Any, image: torch.Tensor) -> list[torch.Tensor]:
    """What the head's branches make of an image, without decoding; end-to-end branches see the same maps, not detached ones."""
    maps = level_maps(network, image)
    return [branch[level](maps[level]) for branch in branches(network) for level in range(len(maps))]


def branches(network: Any) -> list[nn.ModuleList]:
    """The head's lists of one branch a level, each ending in a layer of fixed width.

    Raises:
        PruneError: an unknown kind of head.
    """
    if isinstance(network, YOLOv4):
        return [network.heads]
    from ultralytics.nn.modules import Detect, RTDETRDecoder

    head = network.model[-1]
    if isinstance(head, RTDETRDecoder):
        return [head.input_proj]
    if isinstance(head, Detect):
        names = ('cv2', 'cv3', 'one2one_cv2', 'one2one_cv3')
        return [getattr(head, name) for name in names if getattr(head, name, None) is not None]
    raise PruneError(
        f'networks with a head {type(head).__name__} cannot be pruned, only those with Detect or RTDETRDecoder'
    )


def last_layers(network: Any) -> Sequence[nn.Module]:
    """Where the head's branches end: layers with as many outputs as there are boxes, classes or query channels."""
    levels: Any = [level for branch in branches(network) for level in branch]
    if isinstance(network, YOLOv4):
        return [level[-1] for level in levels]
    from ultralytics.nn.modules import RTDETRDecoder

    return levels if isinstance(network.model[-1], RTDETRDecoder) else [level[-1] for level in levels]


def blocks_of_fixed_width(network: nn.Module) -> tuple[type[nn.Module], ...]:
    """Kinds of blocks whose forward pass counts on the widths it was built with."""
    if isinstance(network, YOLOv4):
        return ()
    from ultralytics.nn.modules import PSA, Attention, RepNCSPELAN4
    from ultralytics.nn.modules.block import AAttn

    return (Attention, AAttn, PSA, RepNCSPELAN4)
