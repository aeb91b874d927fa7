"""YOLO detectors of Ultralytics (AGPL-3.0, training only): training from a recipe, and weights without pickled classes.

Differences from Ultralytics' own trainer: bfloat16 also on CPUs that have it (half the time of float32; the loss
stays float32), no validation while training (the runtime's own path measures), and the last averaged weights are the
result.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault('YOLO_OFFLINE', '1')
os.environ.setdefault('YOLO_AUTOINSTALL', '0')

import torch
import yaml

from training.errors import WeightsError
from training.models import torchvision_nms

torchvision_nms.ensure()

from ultralytics.models.yolo.detect import DetectionTrainer  # noqa: E402
from ultralytics.nn.tasks import DetectionModel  # noqa: E402
from ultralytics.utils import SETTINGS  # noqa: E402

SETTINGS['sync'] = False


@dataclass(frozen=True)
class Phase:
    """One run of the trainer over one mixture of images.

    Attributes:
        name: names the phase's folder.
        images: images for training, a path each.
        hours: wall-clock time; the learning rate falls to its end within it. 0 trains for `arguments['epochs']`.
        arguments: settings of Ultralytics' trainer.
    """

    name: str
    images: Sequence[Path]
    hours: float
    arguments: Mapping[str, Any]


class Bfloat16Model(DetectionModel):
    """A detector whose layers compute in bfloat16 while training, and whose loss is computed in float32."""

    def loss(self, batch: dict[str, Any], preds: Any = None) -> Any:
        """See DetectionModel.loss."""
        images = batch['img']
        with torch.autocast(images.device.type, torch.bfloat16):
            preds = self.forward(images) if preds is None else preds
        return super().loss(batch, _to_float32(preds))


def _to_float32(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.float()
    if isinstance(value, dict):
        return {key: _to_float32(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_to_float32(item) for item in value)
    return value


class _Trainer(DetectionTrainer):
    """Ultralytics' trainer with our model; its result is the last epoch's averaged weights."""

    initial_weights: Path | None = None
    bfloat16 = True

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> DetectionModel:
        kind = Bfloat16Model if self.bfloat16 else DetectionModel
        model = kind(cfg, nc=self.data['nc'], ch=self.data['channels'], verbose=verbose)
        model.names = self.data['names']
        if self.initial_weights is not None:
            load_weights(model, self.initial_weights)
        return model.to(memory_format=torch.channels_last)

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        batch = super().preprocess_batch(batch)
        batch['img'] = batch['img'].contiguous(memory_format=torch.channels_last)
        return batch

    def validate(self) -> tuple[dict[str, float], float]:
        return {}, 0.0

    def final_eval(self) -> None:
        """Nothing: measuring is a stage of its own, on the runtime's path."""


def train(
    phase: Phase,
    folder: Path,
    *,
    architecture: str,
    classes: tuple[str, ...],
    seed: int,
    initial_weights: Path | None = None,
) -> Path:
    """Train one phase.

    Args:
        folder: the run's folder; the phase gets one in it.
        architecture: Ultralytics' model file, `yolov8n.yaml`.
        initial_weights: weights of an earlier phase; None starts from scratch.

    Returns:
        The weights file, see `save_weights`.
    """
    folder = folder / phase.name
    folder.mkdir(parents=True, exist_ok=True)
    overrides = {
        'model': architecture,
        'data': str(_data_file(phase, folder, classes)),
        'project': str(folder.resolve()),
        'name': 'ultralytics',
        'exist_ok': True,
        'device': '0' if torch.cuda.is_available() else 'cpu',
        'pretrained': False,
        'seed': seed,
        'val': False,
        'plots': False,
        'amp': False,
        **phase.arguments,
    }
    if phase.hours:
        overrides['time'] = phase.hours
    trainer = _Trainer(overrides=overrides)
    trainer.initial_weights = initial_weights
    trainer.bfloat16 = has_bfloat16()
    trainer.train()
    target = folder / 'weights.pt'
    save_weights(trainer.ema.ema, target, architecture=architecture, classes=classes)
    return target


def has_bfloat16() -> bool:
    """Whether bfloat16 is quicker than float32 on this machine's training device."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpu = Path('/proc/cpuinfo')
    return cpu.is_file() and 'avx512_bf16' in cpu.read_text(encoding='utf-8')


def _data_file(phase: Phase, folder: Path, classes: tuple[str, ...]) -> Path:
    """Ultralytics' description of the phase's images; it wants a validation set too, which is never read."""
    listing = folder / 'images.txt'
    listing.write_text('\n'.join(str(path.resolve()) for path in phase.images) + '\n', encoding='utf-8')
    data = folder / 'data.yaml'
    document = {'train': str(listing.resolve()), 'val': str(listing.resolve()), 'names': dict(enumerate(classes))}
    data.write_text(yaml.safe_dump(document), encoding='utf-8')
    return data


def save_weights(model: DetectionModel, file: Path, *, architecture: str, classes: tuple[str, ...]) -> None:
    """Write the network as plain tensors and names, which load without running code."""
    state = {name: value.float().contiguous() for name, value in model.state_dict().items()}
    torch.save({'architecture': architecture, 'classes': list(classes), 'state': state}, file)


def load_network(file: Path) -> tuple[DetectionModel, tuple[str, ...]]:
    """The network of a weights file in float32 and evaluation mode, and its classes.

    Raises:
        WeightsError: not a file of `save_weights`, or the tensors do not fit the architecture.
    """
    saved = _read(file)
    classes = tuple(saved['classes'])
    model = DetectionModel(saved['architecture'], nc=len(classes), verbose=False)
    load_weights(model, file)
    return model.eval(), classes


def load_weights(model: DetectionModel, file: Path) -> None:
    """Fill a network from a weights file; every tensor must fit.

    Raises:
        WeightsError: as `load_network`.
    """
    try:
        model.load_state_dict(_read(file)['state'], strict=True)
    except RuntimeError as error:
        raise WeightsError(f'{file} does not fit the network: {error}') from error


def _read(file: Path) -> dict[str, Any]:
    try:
        saved = torch.load(file, map_location='cpu', weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise WeightsError(f'{file} cannot be read: {error}') from error
    if not isinstance(saved, dict) or not {'architecture', 'classes', 'state'} <= saved.keys():
        raise WeightsError(f'{file} is not a weights file of this trainer')
    return saved
