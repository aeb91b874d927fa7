"""Adapters: what brings a student's features to the teacher's channels, so that a loss can compare them.

An adapter belongs to the loss, not to the student: its parameters go to the optimizer with the loss's, and nothing of it
is exported.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.errors import LossError

KINDS = ('identity', 'conv', 'conv_bn', 'conv_bn_relu', 'linear')


def make_adapter(kind: str, student_channels: int, teacher_channels: int) -> nn.Module:
    """An adapter from `student_channels` to `teacher_channels`.

    Args:
        kind: `identity` changes nothing and wants equal channels; `conv`, `conv_bn` and `conv_bn_relu` are 1×1
            convolutions of maps (N, C, H, W), the last one FitNet's; `linear` is for vectors (N, D).

    Raises:
        LossError: no such kind, or `identity` between different channels.
    """
    if kind == 'identity':
        if student_channels != teacher_channels:
            raise LossError(
                f'the student has {student_channels} channels and the teacher {teacher_channels}: choose an adapter '
                f'({", ".join(KINDS[1:])}), or the matching channels of a pruned student'
            )
        return nn.Identity()
    if kind == 'linear':
        return nn.Linear(student_channels, teacher_channels)
    if kind not in KINDS:
        raise LossError(f'there is no adapter {kind!r}; adapters are {", ".join(KINDS)}')
    # A bias in front of batch norm has no effect.
    layers: list[nn.Module] = [nn.Conv2d(student_channels, teacher_channels, 1, bias=kind == 'conv')]
    if 'bn' in kind:
        layers.append(nn.BatchNorm2d(teacher_channels))
    if 'relu' in kind:
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class IndexMatched(nn.Module):
    """Of the teacher's channels, those that the student has kept.

    A student made by pruning its teacher needs no trained adapter: its channel j *is* the teacher's channel `kept[j]`.
    Applied to the teacher's feature.

    Args:
        kept: the teacher's channel of each student channel.

    Raises:
        LossError: a channel is negative or named twice.

    Example:
        >>> teacher = torch.arange(4.0).reshape(1, 4, 1, 1)
        >>> IndexMatched([0, 3])(teacher).flatten().tolist()
        [0.0, 3.0]
    """

    kept: Tensor

    def __init__(self, kept: Sequence[int] | Tensor) -> None:
        super().__init__()
        kept = torch.as_tensor(kept, dtype=torch.long)
        if kept.ndim != 1 or kept.numel() == 0 or bool((kept < 0).any()) or len(set(kept.tolist())) != len(kept):
            raise LossError(f'the kept channels must be different indices of the teacher, not {kept.tolist()}')
        self.register_buffer('kept', kept)

    def forward(self, teacher: Tensor) -> Tensor:
        """The kept channels (axis 1).

        Raises:
            LossError: the teacher has fewer channels than the highest kept one.
        """
        if int(self.kept.max()) >= teacher.shape[1]:
            raise LossError(f'channel {int(self.kept.max())} is kept, but the teacher has {teacher.shape[1]} channels')
        return teacher.index_select(1, self.kept)
