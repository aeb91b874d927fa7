"""Focal and global distillation (FGD): objects and background apart, weighed by attention, and the context of a map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from training.distill.losses.base import DistillationLoss, Takes, Usual, paired, positive
from training.errors import LossError


class FGD(DistillationLoss):
    """Yang et al., "Focal and Global Knowledge Distillation for Detectors", CVPR 2022, level by level:

        A^S = H·W·softmax(mean_c |f| / T), A^C = C·softmax(mean_hw |f| / T), of student and teacher
        L_focal  = α·Σ M·A^S_t·A^C_t·(t − a(s))² + β·Σ B·A^S_t·A^C_t·(t − a(s))²
        L_mask   = γ·(Σ |A^S_t − A^S_s| + Σ |A^C_t − A^C_s|)
        L_global = λ·Σ (R_t(t) − R_s(a(s)))²

    M is 1 / area in cells of the smallest object that covers a cell, B is 1 / number of background cells elsewhere; a is a 1×1
    convolution where the channels differ; R adds to a map its context, GcBlock (Cao et al. 2019), one for student and teacher.

    Shapes: as many maps (N, C, H, W) as strides; of each image (K, 4) boxes x1, y1, x2, y2 in input pixels. Reduction: sum over
    everything but the mean over images; levels are summed.

    Args:
        student_channels: of each level.
        teacher_channels: of each level.
        strides: pixels of a cell on each level.
        temperature: T.
        foreground: α; the authors' for one-stage detectors, as those below.
        background: β.
        attention: γ.
        relation: λ.

    Raises:
        LossError: lists of different length, or a temperature not above 0.

    Example:
        >>> loss = FGD([2], [2], strides=[8])
        >>> maps = [torch.rand(1, 2, 4, 4)]
        >>> loss(maps, [torch.rand(1, 2, 4, 4)], [torch.tensor([[0.0, 0, 16, 16]])]).item() > 0
        True
    """

    paper = 'Yang et al. 2022, arXiv 2111.11837'
    takes: ClassVar[Takes] = 'maps, boxes'
    usual = Usual(weight=1.0)

    def __init__(
        self,
        student_channels: Sequence[int],
        teacher_channels: Sequence[int],
        strides: Sequence[float] = (8, 16, 32),
        temperature: float = 0.5,
        foreground: float = 1e-3,
        background: float = 5e-4,
        attention: float = 1e-3,
        relation: float = 5e-6,
    ) -> None:
        super().__init__()
        positive(temperature=temperature)
        if not len(student_channels) == len(teacher_channels) == len(strides):
            raise LossError('student_channels, teacher_channels and strides must be lists of one length')
        self.strides, self.temperature = tuple(strides), temperature
        self.foreground, self.background, self.attention, self.relation = foreground, background, attention, relation
        self.adapters = nn.ModuleList(
            nn.Identity() if own == others else nn.Conv2d(own, others, 1)
            for own, others in zip(student_channels, teacher_channels, strict=True)
        )
        self.of_student = nn.ModuleList(Context(channels) for channels in teacher_channels)
        self.of_teacher = nn.ModuleList(Context(channels) for channels in teacher_channels)

    def forward(self, students: Sequence[Tensor], teachers: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """The loss of the levels' maps, given the boxes of each image."""
        if not len(students) == len(teachers) == len(self.strides):
            raise LossError(
                f'{len(self.strides)} strides, but {len(students)} maps of the student and {len(teachers)} of the teacher'
            )
        return torch.stack(
            [self._level(*level, boxes) for level in enumerate(zip(students, teachers, strict=True))]
        ).sum()

    def _level(self, level: int, pair: tuple[Tensor, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        student, teacher = paired(self.adapters[level](pair[0]), pair[1])
        if len(boxes) != len(student):
            raise LossError(f'{len(boxes)} lists of boxes for a batch of {len(student)}')
        places, channels = self._attention(teacher)
        own_places, own_channels = self._attention(student)
        sizes = (student.shape[2], student.shape[3])
        masks = [region_masks(of_image, sizes, self.strides[level]) for of_image in boxes]
        objects, rest = (torch.stack(parts).to(student).unsqueeze(1) for parts in zip(*masks, strict=True))
        weighted = (teacher - student).square() * places.unsqueeze(1) * channels[:, :, None, None]
        focal = self.foreground * torch.sum(weighted * objects) + self.background * torch.sum(weighted * rest)
        attended = torch.sum((places - own_places).abs()) + torch.sum((channels - own_channels).abs())
        context = torch.sum((self.of_teacher[level](teacher) - self.of_student[level](student)).square())
        return (focal + self.attention * attended + self.relation * context) / len(student)

    def _attention(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Of places (N, H, W) and of channels (N, C); each has the mean 1."""
        size, (count, height, width) = feature.abs(), (feature.shape[1], *feature.shape[2:])
        places = F.softmax(size.mean(1).flatten(1) / self.temperature, 1) * height * width
        channels = F.softmax(size.mean((2, 3)) / self.temperature, 1) * count
        return places.unflatten(1, (height, width)), channels


class Context(nn.Module):
    """GcBlock: a map plus what its places, weighed by a learned attention, say together.

    Its last convolution begins at 0, as the authors', so that at first the map stays what it is.

    Args:
        channels: of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 2, 1)
        self.mask = nn.Conv2d(channels, 1, 1)
        last = nn.Conv2d(inner, channels, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.transform = nn.Sequential(
            nn.Conv2d(channels, inner, 1), nn.LayerNorm([inner, 1, 1]), nn.ReLU(inplace=True), last
        )

    def forward(self, feature: Tensor) -> Tensor:
        """(N, C, H, W) → the same shape."""
        weights = F.softmax(self.mask(feature).flatten(2), 2)
        context = (feature.flatten(2) * weights).sum(2)[:, :, None, None]
        widened: Tensor = feature + self.transform(context)
        return widened


def region_masks(boxes: Tensor, size: tuple[int, int], stride: float) -> tuple[Tensor, Tensor]:
    """Of one image, what each cell counts as part of an object and as background, (H, W) both.

    Args:
        boxes: (K, 4) x1, y1, x2, y2 in input pixels.
        size: (H, W) of the map.
        stride: pixels of a cell.

    Example:
        >>> objects, rest = region_masks(torch.tensor([[0.0, 0, 8, 8]]), (2, 2), 8)
        >>> objects.tolist(), rest.tolist()
        ([[0.25, 0.25], [0.25, 0.25]], [[0.0, 0.0], [0.0, 0.0]])
    """
    height, width = size
    objects = torch.zeros(height, width, device=boxes.device)
    low, high = (boxes[:, :2] / stride).floor().long().clamp(min=0), (boxes[:, 2:] / stride).ceil().long()
    for (x1, y1), (x2, y2) in zip(low.tolist(), high.tolist(), strict=True):
        part = objects[y1 : y2 + 1, x1 : x2 + 1]
        part.clamp_(min=1 / ((y2 + 1 - y1) * (x2 + 1 - x1)))
    rest = (objects == 0).float()
    return objects, rest / rest.sum().clamp(min=1)
