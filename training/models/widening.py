"""A wide network that begins with what a narrow one knows: a teacher for which no trained weights can be had."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from training.errors import WeightsError

NOISE = 0.05
"""Of the weights' own size; without it the copies of a channel would get the same gradient and stay copies for ever."""


@torch.no_grad()
def widen(wide: nn.Module, narrow: nn.Module, seed: int, noise: float = NOISE) -> None:
    """Fill a network with the weights of a narrower one of the same layers, so that it computes the same.

    Net2WiderNet (Chen, Goodfellow and Shlens, ICLR 2016, section 2.3): every channel is copied, and what reads the copies divides
    its weights by their number. Here all channels are copied equally often and side by side, so splits and concatenations, of
    which these detectors are full, keep their meaning. YOLOv8n becomes YOLOv8s, or any two whose widths are multiples.

    Args:
        wide: is changed in place.
        narrow: with the same layers, each as wide or narrower by a whole factor.
        seed: of the noise.
        noise: standard deviation of a factor around 1 on each weight of a convolution that was copied.

    Raises:
        WeightsError: the layers differ, or a width is no multiple.
    """
    source, target = narrow.state_dict(), wide.state_dict()
    if source.keys() != target.keys():
        odd = min(source.keys() ^ target.keys())
        raise WeightsError(f'only a network of the same layers can be widened; {odd} is in one of the two alone')
    random = torch.Generator().manual_seed(seed)
    for name, value in target.items():
        value.copy_(_copied(name, source[name], value, random, noise))


def _copied(name: str, narrow: Tensor, wide: Any, random: torch.Generator, noise: float) -> Tensor:
    if narrow.dim() != wide.dim() or any(w % n for w, n in zip(wide.shape, narrow.shape, strict=True)):
        raise WeightsError(f'{name}: {tuple(wide.shape)} is no multiple of {tuple(narrow.shape)} in each direction')
    copies = [w // n for w, n in zip(wide.shape, narrow.shape, strict=True)]
    result = narrow
    for direction, count in enumerate(copies):
        result = result.repeat_interleave(count, dim=direction)
    if result.dim() == 4:
        result = result / copies[1]
        if result.shape != narrow.shape:
            result = result * (1 + noise * torch.randn(result.shape, generator=random))
    return result
