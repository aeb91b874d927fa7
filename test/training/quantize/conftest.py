"""A tiny random detector as ONNX, and images for it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tiny_detectors import SPARE, with_random_statistics

WIDTH, HEIGHT = 96, 64
CLASSES = ('car', 'truck', 'bus')


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
    network = with_random_statistics(build_network(SPARE, CLASSES))
    for branch in network.model[-1].cv3:
        branch[-1].bias.data.zero_()
    file = tmp_path_factory.mktemp('tiny') / 'tiny_fp32.onnx'
    rng = np.random.default_rng(0)
    images = tuple(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8) for _ in range(3))
    return Tiny(network, export(network, WIDTH, HEIGHT, file), file, images)
