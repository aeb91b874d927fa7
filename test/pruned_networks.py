"""Networks whose channels are half dead, and the check that pruning these changes nothing."""

from __future__ import annotations

from typing import Any

import torch
from tiny_detectors import SIDE
from torch import nn

from training.models import structure
from training.prune.channels import groups
from training.prune.heads import head_maps, level_maps
from training.prune.pruning import Pruned


def image() -> torch.Tensor:
    """Two pictures, always the same."""
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def with_dead_channels(network: Any) -> Any:
    """The network with γ = β = 0 in the first half of every group's channels: they are 0 whatever the image."""
    structure.split(network)
    for group in groups(network):
        for member in group.of('features'):
            layer = network.get_submodule(member.name)
            dead = torch.from_numpy(member.channels[member.roots < group.size // 2])
            layer.weight.data[dead] = 0
            layer.bias.data[dead] = 0
    return network


@torch.no_grad()
def assert_outputs_stayed(pruned: Pruned, whole: nn.Module) -> None:
    """The heads put out what they did, and read the kept channels of the maps."""
    for got, wanted in zip(head_maps(pruned.network, image()), head_maps(whole, image()), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    for got, wanted, kept in zip(
        level_maps(pruned.network, image()), level_maps(whole, image()), pruned.kept, strict=True
    ):
        torch.testing.assert_close(got, wanted[:, kept], rtol=1e-4, atol=1e-5)
