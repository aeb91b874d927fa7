"""The thirteen methods that distil a classifier: which of its outputs each compares with the teacher's."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from training.data.image_folder import Pictures
from training.distill.controls import CONTROLS
from training.distill.losses import OnLevels, loss_class, make
from training.distill.losses.base import check_places
from training.distill.losses.factor import FT
from training.distill.outputs import Outputs
from training.models.yolov4.backbones import Classifier
from training.ranges import one_of
from training.schema import added

Said = tuple[Tensor, tuple[Tensor, ...], Tensor]
"""What a classifier says: logits (N, classes), maps (N, C, H, W) finest first, the pooled last one (N, C)."""
METHODS = ('kd', 'fitnet', 'at', 'sp', 'cc', 'vid', 'rkd', 'pkt', 'ab', 'ft', 'fsp', 'nst', 'crd')
"""The comparison of CRD's authors (Tian 2020, table 1)."""


@dataclass(frozen=True)
class MethodSettings:
    """What is learned from the teacher beside the labels.

    Attributes:
        loss: one of METHODS.
        weight: factor of the loss; None is its authors'.
        settings: of the loss, `{temperature: 2}`.
        teacher_control: `none`; in control runs `random` or `shuffled`, see `training.distill.controls`.
    """

    loss: str
    weight: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    teacher_control: str = added('none')

    def __post_init__(self) -> None:
        loss_class(self.loss)
        one_of(CONTROLS, teacher_control=self.teacher_control)
        if self.loss not in METHODS:
            raise ValueError(f'{self.loss} does not distil classifiers; methods are {", ".join(METHODS)}')

    @property
    def factor(self) -> float:
        """The weight in use."""
        return loss_class(self.loss).usual.weight if self.weight is None else self.weight


class Method(nn.Module):
    """A loss with the parts of student and teacher that it compares."""

    def __init__(
        self, settings: MethodSettings, student: Classifier, teacher: Classifier, data: Pictures, size: int
    ) -> None:
        super().__init__()
        self.name, self.factor = settings.loss, settings.factor
        kind = loss_class(settings.loss)
        check_places(self.name, kind, {f'stride {stride}': (size // stride) ** 2 for stride in student.strides})
        self.takes = kind.takes
        channels = {'student_channels': student.channels, 'teacher_channels': teacher.channels}
        self.loss: nn.Module
        if self.takes == 'map':
            self.loss = OnLevels(
                [make(self.name, **settings.settings, **of_level) for of_level in _each(kind, channels)]
            )
        elif self.name == 'ab':
            self.loss = make(self.name, **settings.settings, **channels)
        elif self.name in ('cc', 'crd'):
            sizes = {
                'student_features': channels['student_channels'][-1],
                'teacher_features': channels['teacher_channels'][-1],
            }
            more = {'class_ids': data.class_ids} if self.name == 'crd' else {}
            self.loss = make(self.name, **settings.settings, **sizes, **more)
        elif self.name == 'fsp':
            self.loss = _Projected(make(self.name, **settings.settings), **channels)
        else:
            self.loss = make(self.name, **settings.settings)
        self.only_first = kind.usual.initialization_only

    def forward(self, student: Said, teacher: Said, indices: Tensor) -> Tensor:
        """The loss, not weighted, of what both classifiers gave."""
        (logits, maps, vector), (wanted_logits, wanted_maps, wanted_vector) = student, teacher
        if self.takes == 'logits':
            return self._of(logits, wanted_logits)
        if self.takes in ('map', 'maps'):
            return self._of(maps, wanted_maps)
        more = (indices,) if 'indices' in self.takes else ()
        return self._of(vector, wanted_vector, *more)

    def _of(self, *values: Any) -> Tensor:
        result: Tensor = self.loss(*values)
        return result

    def reconstruction(self, teacher: Said) -> Tensor:
        """FT's first stage, on all levels."""
        assert isinstance(self.loss, OnLevels)
        parts = [
            loss.reconstruction(value)
            for loss, value in zip(self.loss.losses, teacher[1], strict=True)
            if isinstance(loss, FT)
        ]
        return torch.stack(parts).sum()


def as_outputs(said: Said) -> Outputs:
    """In the form in which `teacher_cache` keeps answers."""
    logits, maps, vector = said
    named = {f'map {number}': value for number, value in enumerate(maps)}
    return Outputs(named, {'classifier': {'logits': logits, 'vector': vector}})


def as_said(outputs: Outputs) -> Said:
    """What `as_outputs` was given."""
    branch = outputs.branches['classifier']
    return branch['logits'], tuple(outputs.maps.values()), branch['vector']


def of_others(said: Said, others: Sequence[int]) -> Said:
    """The same answers in another order of the pictures."""
    logits, maps, vector = said
    order = torch.tensor(others, device=logits.device)
    return logits[order], tuple(value[order] for value in maps), vector[order]


class _Projected(nn.Module):
    """FSP compares equal channels: 1×1 convolutions bring the student's to the teacher's."""

    def __init__(self, loss: nn.Module, student_channels: Sequence[int], teacher_channels: Sequence[int]) -> None:
        super().__init__()
        self.loss = loss
        pairs = zip(student_channels, teacher_channels, strict=True)
        self.projections = nn.ModuleList(nn.Conv2d(*pair, 1) for pair in pairs)

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """The loss of two lists of maps."""
        result: Tensor = self.loss([p(value) for p, value in zip(self.projections, student, strict=True)], teacher)
        return result


def _each(kind: type[nn.Module], channels: Mapping[str, Sequence[int]]) -> list[dict[str, int]]:
    """The channels of each level for losses that have regressors of their own; nothing for the others."""
    names = [name for name in channels if name in inspect.signature(kind).parameters]
    count = len(next(iter(channels.values())))
    return [{name: channels[name][level] for name in names} for level in range(count)]
