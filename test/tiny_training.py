"""What the tests of the trainer train: networks of width 0.125 and pictures of 64 pixels with one rectangle."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

CLASSES = ('wide', 'tall')
SIZE = 64
RTDETR = {
    'nc': 80,
    'backbone': [
        [-1, 1, 'Conv', [16, 3, 4]],
        [-1, 1, 'Conv', [32, 3, 2]],
        [-1, 1, 'Conv', [32, 3, 2]],
        [-1, 1, 'Conv', [32, 3, 2]],
    ],
    'head': [[[1, 2, 3], 1, 'RTDETRDecoder', ['nc', 32, 20, 4, 2, 2, 64]]],
}
"""A detector that predicts each object once."""


def architecture(name: str = 'yolov8n', width: float = 0.125) -> dict[str, Any]:
    """Ultralytics' architecture, narrower."""
    from ultralytics.nn.tasks import yaml_model_load

    whole = yaml_model_load(f'{name}.yaml')
    kept = {key: whole[key] for key in ('nc', 'backbone', 'head', 'end2end', 'reg_max') if key in whole}
    return {**kept, 'scales': {'n': [0.33, width, 256]}, 'scale': 'n'}


def write_network(file: Path, of_network: Mapping[str, Any], seed: int = 11) -> Path:
    """A weights file of a fresh network."""
    import torch

    from training.models.weights import build_network, save_weights

    torch.manual_seed(seed)
    save_weights(build_network(of_network, CLASSES), file, CLASSES)
    return file


def write_telling_network(file: Path, pictures: Sequence[Path], seed: int = 11) -> Path:
    """A weights file of an untrained network whose scores differ from picture to picture, as after training.

    In a fresh one the signal fades from layer to layer, and it answers alike to all pictures but for float noise. Here its
    normalizations have met the pictures, and its last convolutions are large.
    """
    import torch

    from training.models.weights import build_network, save_weights

    torch.manual_seed(seed)
    network = build_network(architecture(), CLASSES)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        images = torch.stack([torch.from_numpy(cv2.imread(str(picture))) for picture in pictures])
        network.train()(images.permute(0, 3, 1, 2) / 255)
    for branch in network.model[-1].cv3:
        branch[-1].weight.data *= 10
        branch[-1].bias.data.fill_(-1.0)
    save_weights(network, file, CLASSES)
    return file


def write_pictures(folder: Path, count: int, seed: int = 0) -> list[Path]:
    """Pictures in `images` and their labels in `labels`."""
    random = np.random.default_rng(seed)
    for kind in ('images', 'labels'):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    files = []
    for number in range(count):
        tall = number % 2
        width, height = (16, 32) if tall else (32, 16)
        x, y = random.integers(0, SIZE - width), random.integers(0, SIZE - height)
        image = random.integers(60, 120, (SIZE, SIZE, 3), dtype=np.uint8)
        image[y : y + height, x : x + width] = (30, 220, 30) if tall else (220, 30, 30)
        file = folder / 'images' / f'{number}.png'
        cv2.imwrite(str(file), image)
        row = (tall, (x + width / 2) / SIZE, (y + height / 2) / SIZE, width / SIZE, height / SIZE)
        (folder / 'labels' / f'{number}.txt').write_text(' '.join(f'{value:g}' for value in row) + '\n')
        files.append(file)
    return files


def columns(log: Path) -> dict[str, Sequence[str]]:
    """A log's values by column."""
    rows = [line.split(',') for line in log.read_text().splitlines()]
    return {name: [row[place] for row in rows[1:]] for place, name in enumerate(rows[0])}


def run_of(job: Any, folder: Path) -> Any:
    """A detector's training before its first step, of one process."""
    import torch

    from training.fit.detector import DetectorTask
    from training.fit.job import identity
    from training.fit.loop import Run
    from training.fit.processes import Group

    folder.mkdir(parents=True, exist_ok=True)
    group = Group(0, 1, torch.device('cpu'))
    return Run(DetectorTask(job, folder, group), folder, identity(job), group)
