"""The mean of networks that were trained from one another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import nn

from training.errors import WeightsError

N = TypeVar('N', bound=nn.Module)


@torch.no_grad()
def averaged(networks: Sequence[N]) -> N:
    """The first of the networks, with the mean of all their weights and statistics.

    After fine-tuning, the mean of the weights before and behind is often better than both, on what was new and on what was known:
    Wortsman et al., "Robust fine-tuning of zero-shot models" (WiSE-FT, CVPR 2022), with equal shares as they recommend where
    nothing tells otherwise. It costs no inference. Networks that were not trained from one another have no such mean.

    Raises:
        WeightsError: the networks have other tensors.
    """
    states = [network.state_dict() for network in networks]
    shapes = [{name: value.shape for name, value in state.items()} for state in states]
    if any(other != shapes[0] for other in shapes):
        raise WeightsError('only networks with the same layers and channels can be averaged')
    mean = {
        name: torch.stack([state[name] for state in states]).mean(0) if value.is_floating_point() else value
        for name, value in states[0].items()
    }
    networks[0].load_state_dict(mean)
    return networks[0]
