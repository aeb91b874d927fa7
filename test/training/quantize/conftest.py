"""A tiny random detector as ONNX, and images for it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

WIDTH, HEIGHT = 96, 64
CLASSES = ('car', 'truck', 'bus')
ARCHITECTURE = {
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


@dataclass(frozen=True)
class Tiny:
    """The network, its export and images of its size."""

    network: object
    module: object
    file: Path
    images: tuple[np.ndarray, ...]


@pytest.fixture(scope='session')
def tiny(tmp_path_factory) -> Tiny:
    """A YOLOv8 of width 0.125 with random weights, random batch-norm statistics, and scores about 0.5."""
    torch = pytest.importorskip('torch')
    from training.export.onnx_export import export
    from training.models.weights import build_network

    torch.manual_seed(0)
    network = build_network(ARCHITECTURE, CLASSES)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    for branch in network.model[-1].cv3:
        branch[-1].bias.data.zero_()
    file = tmp_path_factory.mktemp('tiny') / 'tiny_fp32.onnx'
    rng = np.random.default_rng(0)
    images = tuple(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8) for _ in range(3))
    return Tiny(network.eval(), export(network.eval(), WIDTH, HEIGHT, file), file, images)
