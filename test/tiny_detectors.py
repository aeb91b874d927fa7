"""Detectors small enough for tests: each family's blocks, an eighth of their width, with statistics as if they were trained."""

from __future__ import annotations

import copy
from typing import Any

CLASSES = ('car', 'bus')
SIDE = 64

BLOCKS = {'v8': 'C2f', 'v5': 'C3', '11': 'C3k2', '26': 'C3k2'}
"""The repeated block of each family."""

SPARE = {
    'scales': {'z': [0.33, 0.125, 256]},
    'backbone': [
        [-1, 1, 'Conv', [64, 3, 2]],
        [-1, 1, 'Conv', [128, 3, 2]],
        [-1, 1, 'C2f', [128, True]],
        [-1, 1, 'Conv', [256, 3, 2]],
        [-1, 1, 'Conv', [512, 3, 2]],
        [-1, 1, 'Conv', [512, 3, 2]],
    ],
    'head': [
        [-1, 1, 'nn.Upsample', [None, 2, 'nearest']],
        [[-1, 4], 1, 'Concat', [1]],
        [-1, 1, 'C2f', [256]],
        [[3, 8, 5], 1, 'Detect', ['nc']],
    ],
}
"""A YOLOv8 of three levels at strides 8, 16, 32 and no more blocks than a skip connection needs."""


def architecture(family: str = 'v8', **changes: Any) -> dict[str, Any]:
    """A yaml's content: three levels at strides 8, 16, 32, shortcuts in the backbone, attention where the family has it."""
    block = BLOCKS[family]
    in_backbone: list[Any] = [False, 0.5] if block == 'C3k2' else [True]
    attention = [[-1, 1, 'C2PSA', [512]]] if family in ('11', '26') else []
    last = 7 + len(attention)
    mapping = {
        'nc': 80,
        'scales': {'n': [0.33, 0.125, 512]},
        'scale': 'n',
        'backbone': [
            [-1, 1, 'Conv', [64, 3, 2]],
            [-1, 1, 'Conv', [128, 3, 2]],
            [-1, 1, 'Conv', [256, 3, 2]],
            [-1, 1, block, [256, *in_backbone]],
            [-1, 1, 'Conv', [512, 3, 2]],
            [-1, 1, block, [512, *in_backbone]],
            [-1, 1, 'Conv', [512, 3, 2]],
            [-1, 1, 'SPPF', [512, 5]],
            *attention,
        ],
        'head': [
            [-1, 1, 'nn.Upsample', [None, 2, 'nearest']],
            [[-1, 5], 1, 'Concat', [1]],
            [-1, 1, block, [256]],
            [[3, last + 3, last], 1, 'Detect', ['nc']],
        ],
    }
    if family == '26':
        mapping |= {'end2end': True, 'reg_max': 1}
    return copy.deepcopy(mapping | changes)


def with_random_statistics(network: Any) -> Any:
    """The network in evaluation mode, its batch normalizations random, so that fusing matters."""
    import torch

    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    return network.eval()


def detector(family: str = 'v8', seed: int = 0) -> Any:
    """A network of `architecture` in evaluation mode; its batch normalizations know the statistics of noise."""
    import torch

    from training.models.weights import build_network

    torch.manual_seed(seed)
    network = build_network(architecture(family), CLASSES)
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.data.uniform_(0.5, 1.5)
        norm.bias.data.normal_(0, 0.1)
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.rand(4, 3, 2 * SIDE, 2 * SIDE))
    for norm in norms:
        norm.momentum = 0.03
    return network.eval()
