"""The network that is trained: where its weights come from, and which of its layers stay as they are."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from training.errors import FitError
from training.fit.job import FitJob
from training.models.transfer import with_classes
from training.models.weights import build_network, load_network
from training.seeding import seeded

_logger = logging.getLogger(__name__)


def make_student(job: FitJob) -> Any:
    """The job's network.

    Raises:
        WeightsError: a weights file that cannot be used.
    """
    if isinstance(job.student, nn.Module):
        return copy.deepcopy(job.student).float()
    if isinstance(job.student, Path):
        network, classes = load_network(job.student)
        if classes == tuple(job.classes):
            return network
        with seeded(job.seed, -1):
            transferred = with_classes(network, classes, job.classes)
        _logger.warning('%s: %s', job.student, transferred)
        return transferred.network
    with seeded(job.seed, -1):
        return build_network(job.student, job.classes)


def freeze(network: nn.Module, layers: Sequence[str] | int) -> None:
    """Let layers, and the statistics of their normalisations, stay as they are.

    Args:
        network: a student in training mode.
        layers: see FitSettings.

    Raises:
        FitError: there is no such layer.
    """
    prefixes = _prefixes(network, layers)
    for name, parameter in network.named_parameters():
        # The integral of a distribution is fixed, not learned.
        parameter.requires_grad_(not name.startswith(prefixes) and '.dfl.' not in name)
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and f'{name}.'.startswith(prefixes):
            module.eval()


def _prefixes(network: nn.Module, layers: Sequence[str] | int) -> tuple[str, ...]:
    names = [name for name, _ in network.named_parameters()]
    if isinstance(layers, int):
        if not any(name.startswith('model.0.') for name in names):
            raise FitError(
                f'freeze: {layers} counts the layers of Ultralytics; name those of this network, like {names[0]}'
            )
        return tuple(f'model.{number}.' for number in range(layers))
    for prefix in layers:
        if not any(name.startswith(prefix) for name in names):
            raise FitError(f'freeze: no layer begins with {prefix!r}; names are like {names[0]}')
    return tuple(layers)
