"""What a recipe will take, before any of it is done: images, steps, memory and hours of each stage, on this machine.

The hours are those of the network alone, timed on one batch of noise; reading and augmenting pictures goes on beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.data.picture import images_below
from training.data.sampling import ALL, ImageRange
from training.data.sources import SourceSettings
from training.errors import WeightsError
from training.fit.precision import autocast, autocast_dtype
from training.run.recipe import Recipe, StageRecipe

KNOWN_IMAGES: Mapping[str, int] = {'dtld': 28_525, 'bdd100k': 69_863, 'visdrone': 6_471, 'coco': 118_287}
"""Training images of the published sets, by format, for when the set is not there yet."""
TILES_OF_DTLD = 8
"""640-pixel tiles of 2048 × 1024."""
IMAGENET = 1_281_167
FORWARD_SHARE = 1 / 3
"""Of a step's time, what a teacher takes, who is not trained."""
BYTES_OF_A_WEIGHT = 20
"""Its value, gradient and average, and two of AdamW."""
OVERHEAD_GB = 0.5
PROBED = 320
"""Side in pixels at which a CPU is timed; the time grows with the area."""


@dataclass(frozen=True)
class StageEstimate:
    """What one training takes.

    Attributes:
        name: of the stage.
        images: that it is trained on.
        steps: changes of the weights.
        gigabytes: of memory, without pictures that are kept.
        hours: on this machine.
    """

    name: str
    images: int
    steps: int
    gigabytes: float
    hours: float

    def __str__(self) -> str:
        return (
            f'{self.name:14} {self.images:>9,} images  {self.steps:>9,} steps  about {self.gigabytes:6.1f} GB  '
            f'{_duration(self.hours)}'
        )


def _duration(hours: float) -> str:
    if hours < 0.1:
        return f'{60 * hours:.1f} minutes'
    return f'{hours:.1f} hours' if hours < 48 else f'{hours / 24:.1f} days'


@dataclass(frozen=True)
class Data:
    """A set that a recipe needs.

    Attributes:
        name: in the recipe.
        what: format and folder.
        present: whether it is there.
        images: for training: counted, stated or as published; 0 where that is not known, as of a video.
    """

    name: str
    what: str
    present: bool
    images: int

    def __str__(self) -> str:
        count = f', about {self.images:,} training images' if self.images else ''
        return f'{self.name:14} {self.what}: {"there" if self.present else "MISSING"}{count}'


def data_needed(recipe: Recipe, root: Path) -> list[Data]:
    """The sets that a recipe reads, present or not."""
    needed = [_labelled(name, source, root) for name, source in recipe.data.items()]
    for name, source in recipe.unlabelled.items():
        needed.append(Data(name, f'unlabelled frames in {root / source.path}', (root / source.path).exists(), 0))
    for name, stage in recipe.stages.items():
        if stage.classify is not None and stage.classify.folder:
            folder = root / stage.classify.folder
            found = len(images_below(folder / 'train')) if folder.is_dir() else IMAGENET
            needed.append(Data(f'stage {name}', f'classes in {folder}', folder.is_dir(), found))
    return needed


def _labelled(name: str, source: SourceSettings, root: Path) -> Data:
    folder = root / source.path
    what = f'{source.format} in {folder}' if source.path else f'{source.format}, drawn here'
    if source.scenes is not None:
        return Data(name, what, True, source.scenes.count)
    if source.fashion is not None:
        return Data(name, what, folder.exists(), source.fashion.count)
    if source.tiles is not None:
        return Data(name, what, folder.exists(), source.tiles.count)
    tiles = TILES_OF_DTLD if source.grid is not None else 1
    if folder.is_dir() and source.path:
        return Data(name, what, True, _training_images(folder) * tiles)
    return Data(name, what, not source.path, KNOWN_IMAGES.get(source.format, 1000) * tiles)


def _training_images(folder: Path) -> int:
    """Those below folders of that name; where there is none, all."""
    files = images_below(folder)
    return len([file for file in files if 'train' in file.relative_to(folder).parts]) or len(files)


def stages(recipe: Recipe, needed: list[Data]) -> list[StageEstimate]:
    """What each stage that trains will take; others take seconds."""
    counts = {data.name: data.images for data in needed}
    probes: Probes = {}
    found = []
    for name, stage in recipe.stages.items():
        if stage.classify is not None:
            found.append(_classifier(name, stage, counts, probes))
        elif stage.fit is not None and stage.images:
            found.append(_detector(name, stage, recipe, counts, probes))
    return found


@dataclass(frozen=True)
class Probe:
    """What training a network costs.

    Attributes:
        seconds: of an image.
        kept: bytes of an image that wait for the way back.
        fixed: bytes of weights, gradients, averages and the optimizer's state.
    """

    seconds: float
    kept: float
    fixed: float

    def gigabytes(self, batch: int) -> float:
        """Of a training with that batch."""
        return (self.kept * batch + self.fixed) / 1e9 + OVERHEAD_GB


Probes = dict[Any, Probe]


def _detector(
    name: str, stage: StageRecipe, recipe: Recipe, counts: Mapping[str, int], probes: Probes
) -> StageEstimate:
    assert stage.fit is not None
    fit = stage.fit
    images = sum(_count(wanted, counts.get(of, 0)) for of, wanted in stage.images.items())
    per_step = fit.images_at_once * fit.accumulate
    steps = fit.steps or max(round(fit.epochs * images / per_step), 1)
    seen = steps * (per_step + (fit.unlabelled_batch * fit.accumulate if stage.unlabelled else 0))

    def cost(source: str) -> Probe:
        architecture = _architecture(source, recipe)
        return _probed(architecture, lambda: _network(architecture, recipe), fit.image_size, fit.precision, probes)

    own = cost(stage.start)
    teachers = [cost(source) for source in stage.taught_by.values()]
    total = seen * (own.seconds + FORWARD_SHARE * sum(teacher.seconds for teacher in teachers))
    memory = own.gigabytes(fit.images_at_once) + sum(teacher.fixed for teacher in teachers) / 1e9
    return StageEstimate(name, images, steps, memory, total / 3600)


def _classifier(name: str, stage: StageRecipe, counts: Mapping[str, int], probes: Probes) -> StageEstimate:
    from training.models.yolov4.backbones import Classifier, is_backbone

    assert stage.classify is not None
    fit = stage.classify.fit
    images = counts.get(f'stage {name}', 0) or sum(counts.get(of, 0) for of in stage.classify.crops)
    backbone = stage.start if is_backbone(stage.start) else 'mobilenet_v2'
    own = _probed(backbone, lambda: Classifier(backbone, 1000), fit.size, fit.precision, probes)
    return StageEstimate(name, images, fit.steps, own.gigabytes(fit.batch), fit.steps * fit.batch * own.seconds / 3600)


def _count(wanted: ImageRange, known: int) -> int:
    if wanted == ALL:
        return known
    return wanted[1] - wanted[0] if isinstance(wanted, tuple) else int(wanted)


def _architecture(source: str, recipe: Recipe) -> str:
    """The model file or weights file from which a stage's network comes in the end; pruning makes it smaller."""
    while source in recipe.stages:
        source = recipe.stages[source].start
    beside = recipe.file.parent / source
    return str(beside) if beside.is_file() else source


def _network(architecture: str, recipe: Recipe) -> nn.Module:
    from training.models.weights import build_network, load_network

    classes = recipe.data[recipe.validation].classes or ('object',)
    names = tuple(f'class {number}' for number in range(10)) if classes in (('object',), ('vru',)) else classes
    if architecture.endswith('.yaml'):
        network: nn.Module = build_network(architecture, names)
        return network
    try:
        return load_network(Path(architecture))[0]
    except WeightsError:
        return build_network('yolov8n.yaml', names)  # not made yet: the usual one


def _probed(key: str, make: Callable[[], nn.Module], size: int, precision: str, probes: Probes) -> Probe:
    """What a network costs, each timed once."""
    if (key, size) not in probes:
        probes[key, size] = _probe(make(), size, precision)
    return probes[key, size]


def _probe(network: nn.Module, size: int, precision: str) -> Probe:
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    side = size if device.type == 'cuda' else min(size, PROBED)
    count = 8 if device.type == 'cuda' else 2
    network = network.to(device).train()
    images = torch.rand(count, 3, side, side, device=device)
    kept = _Kept(network)

    def once() -> float:
        started = time.perf_counter()
        with autocast(device, autocast_dtype(precision, device)):
            outputs = network(images)
        sum(value.float().square().mean() for value in _tensors(outputs)).backward()  # type: ignore[union-attr]
        if device.type == 'cuda':
            torch.cuda.synchronize()
        return time.perf_counter() - started

    once()
    kept.remove()
    scale = (size / side) ** 2 / count
    weights = sum(parameter.numel() for parameter in network.parameters())
    return Probe(once() * scale, kept.bytes * scale, BYTES_OF_A_WEIGHT * weights)


class _Kept:
    """Counts what the layers put out in a forward pass, which training keeps for the way back."""

    def __init__(self, network: nn.Module) -> None:
        self.bytes = 0.0
        leaves = [layer for layer in network.modules() if not list(layer.children())]
        self._hooks = [layer.register_forward_hook(self._count) for layer in leaves]

    def _count(self, _: nn.Module, __: Any, output: Any) -> None:
        self.bytes += sum(value.numel() * value.element_size() for value in _tensors(output))

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors(item)]
    return []
