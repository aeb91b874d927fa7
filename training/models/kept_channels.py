"""A layer with some of its channels, which keep their weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn


def keep_outputs(convolution: nn.Conv2d, kept: Sequence[int] | npt.NDArray[np.int64]) -> None:
    """Keep some output channels of a convolution; of a depthwise one, the channels."""
    index = torch.as_tensor(np.asarray(kept), dtype=torch.long)
    convolution.weight = nn.Parameter(_chosen(convolution.weight, 0, index), convolution.weight.requires_grad)
    if convolution.bias is not None:
        convolution.bias = nn.Parameter(_chosen(convolution.bias, 0, index), convolution.bias.requires_grad)
    if convolution.groups > 1:
        convolution.groups = convolution.in_channels = len(index)
    convolution.out_channels = len(index)


def keep_inputs(convolution: nn.Conv2d, kept: Sequence[int] | npt.NDArray[np.int64]) -> None:
    """Keep some input channels of a convolution that is not grouped."""
    index = torch.as_tensor(np.asarray(kept), dtype=torch.long)
    convolution.weight = nn.Parameter(_chosen(convolution.weight, 1, index), convolution.weight.requires_grad)
    convolution.in_channels = len(index)


def keep_features(normalization: nn.BatchNorm2d, kept: Sequence[int] | npt.NDArray[np.int64]) -> None:
    """Keep some channels of a batch normalization."""
    index = torch.as_tensor(np.asarray(kept), dtype=torch.long)
    for name in ('weight', 'bias'):
        value = getattr(normalization, name)
        setattr(normalization, name, nn.Parameter(_chosen(value, 0, index), value.requires_grad))
    for name in ('running_mean', 'running_var'):
        setattr(normalization, name, _chosen(getattr(normalization, name), 0, index))
    normalization.num_features = len(index)


def _chosen(value: torch.Tensor, dimension: int, index: torch.Tensor) -> torch.Tensor:
    return value.detach().index_select(dimension, index.to(value.device)).clone()
