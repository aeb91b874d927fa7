"""What changes the weights: the optimizer of a training, its rates, and the averaged weights beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from training.errors import FitError
from training.fit.settings import FitSettings

BIASES = 'biases'


def make_optimizer(networks: Sequence[nn.Module], settings: FitSettings) -> torch.optim.Optimizer:
    """The optimizer of all that is trained of some networks; biases and normalizations do not decay.

    Raises:
        FitError: nothing is trained.
    """
    named = [item for network in networks for item in network.named_parameters() if item[1].requires_grad]
    if not named:
        raise FitError('freeze leaves nothing to train')
    biases = [value for name, value in named if value.ndim <= 1 and name.endswith('bias')]
    scales = [value for name, value in named if value.ndim <= 1 and not name.endswith('bias')]
    groups: list[dict[str, object]] = [
        {'params': [value for _, value in named if value.ndim > 1], 'weight_decay': settings.decay},
        {'params': scales, 'weight_decay': 0.0},
        {'params': biases, 'weight_decay': 0.0, 'name': BIASES},
    ]
    groups = [group for group in groups if group['params']]
    if settings.optimizer == 'sgd':
        nesterov = settings.momentum > 0
        return torch.optim.SGD(groups, settings.learning_rate, momentum=settings.momentum, nesterov=nesterov)
    return torch.optim.AdamW(groups, settings.learning_rate, betas=(settings.momentum, 0.999))


class Rates:
    """Learning rate and momentum of each step: warm-up, then a cosine.

    Args:
        settings: see FitSettings.
        steps: of the run.
        first: of them before the task itself, at the full rate.

    Attributes:
        rate: that was set last, of the weights.
    """

    def __init__(self, settings: FitSettings, steps: int, first: int = 0) -> None:
        self._settings, self._steps, self._first = settings, steps, first
        self.rate = settings.learning_rate

    def set(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Those of a step, from 0."""
        settings = self._settings
        warm = self._warm(step)
        full = settings.learning_rate * self._share(step)
        self.rate = full * warm
        for group in optimizer.param_groups:
            group['lr'] = self.rate
            if settings.warmup_bias_lr is not None and group.get('name') == BIASES:
                group['lr'] = _between(settings.warmup_bias_lr, full, warm)
            if settings.warmup_momentum is not None:
                momentum = _between(settings.warmup_momentum, settings.momentum, warm)
                if 'betas' in group:
                    group['betas'] = (momentum, group['betas'][1])
                else:
                    group['momentum'] = momentum

    def _share(self, step: int) -> float:
        """Of the learning rate, along the cosine."""
        if step < self._first:
            return 1.0
        progress = (step - self._first) / (self._steps - self._first)
        cosine = (1 + math.cos(math.pi * progress)) / 2
        return self._settings.final_share + (1 - self._settings.final_share) * cosine

    def _warm(self, step: int) -> float:
        """Share of the warm-up that is behind, 0 … 1."""
        done = step - self._first
        if done < 0 or done >= self._settings.warmup_steps:
            return 1.0
        return (done + 1) / self._settings.warmup_steps


def _between(low: float, high: float, share: float) -> float:
    return high if share >= 1 else low + (high - low) * share


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
