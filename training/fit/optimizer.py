"""What changes the weights: the optimizer of a training, and the sparsity penalty beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from training.errors import FitError
from training.fit.settings import FitSettings

if TYPE_CHECKING:
    from training.prune.sparsity import SparsitySettings


def sparsity_penalty(network: nn.Module, settings: SparsitySettings | None, optimizer: str) -> Any:
    """The penalty of a training, or None."""
    if settings is None:
        return None
    from training.prune.sparsity import SparsityPenalty

    return SparsityPenalty(network, settings, optimizer)


def make_optimizer(networks: Sequence[nn.Module], settings: FitSettings) -> torch.optim.Optimizer:
    """The optimizer of all that is trained of some networks; biases and normalisations do not decay.

    Raises:
        FitError: nothing is trained.
    """
    trained = [value for network in networks for value in network.parameters() if value.requires_grad]
    if not trained:
        raise FitError('freeze leaves nothing to train')
    groups = [
        {'params': [value for value in trained if value.ndim > 1], 'weight_decay': settings.decay},
        {'params': [value for value in trained if value.ndim <= 1], 'weight_decay': 0.0},
    ]
    if settings.optimizer == 'sgd':
        nesterov = settings.momentum > 0
        return torch.optim.SGD(groups, settings.learning_rate, momentum=settings.momentum, nesterov=nesterov)
    return torch.optim.AdamW(groups, settings.learning_rate, betas=(settings.momentum, 0.999))


class AveragedWeights:
    """The exponential average of a network's weights and statistics.

    Args:
        network: in training.
        decay: share that stays at each step; 0 averages nothing.
        ramp: steps over which it approaches that.

    Attributes:
        state: tensors by name.
    """

    def __init__(self, network: nn.Module, decay: float, ramp: int) -> None:
        self._decay, self._ramp = decay, ramp
        self.state = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """After a step, numbered from 0."""
        decay = self._decay
        if not decay:
            return
        if self._ramp:
            decay *= 1 - math.exp(-(step + 1) / self._ramp)
        state = network.state_dict()
        moving = [name for name, value in state.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.state[name] for name in moving], [state[name] for name in moving], 1 - decay)
        for name in state.keys() - set(moving):
            self.state[name].copy_(state[name])

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from a `state`."""
        for name, value in state.items():
            self.state[name].copy_(value)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the device or the machine has no memory left."""
    words = ('not enough memory', "can't allocate memory")  # on CPUs it has no type of its own
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)
