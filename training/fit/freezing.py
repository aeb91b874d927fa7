"""Layers that are not trained."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from training.errors import FitError


def freeze(network: nn.Module, layers: Sequence[str] | int) -> None:
    """Let layers, and the statistics of their normalizations, stay as they are.

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
