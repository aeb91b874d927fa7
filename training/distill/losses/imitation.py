"""Fine-grained feature imitation: the teacher's map is copied near objects only (FGFI)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from training.distill.losses.base import DistillationLoss, Takes, Usual, paired, positive
from training.errors import LossError

Anchors = Sequence[tuple[float, float]]
"""Widths and heights in pixels of the anchors of one level."""

YOLOV5_STRIDES = (8, 16, 32)
YOLOV5_ANCHORS: tuple[Anchors, ...] = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
"""YOLOv5's anchors on COCO; an anchor-free detector is masked by them as well."""


class FGFI(DistillationLoss):
    """Fine-grained imitation: Wang et al., "Distilling Object Detectors with Fine-grained Feature Imitation", CVPR 2019.

    L = Σ_levels Σ m · (adap(s) − t)² / (2 · Σ m), sums over the whole batch and all channels

    m is 1 in the cells of `imitation_masks`, near the true boxes. adap is a 3×3 convolution with ReLU, its weights drawn
    from N(0, 1e-4) [variance 1e-8], its bias 0.

    Shapes: sequences of student (N, C_s, H, W) and teacher (N, C_t, H, W), one map a level; boxes: one tensor (K, 4) of
    x1, y1, x2, y2 in input pixels for each image, K may be 0. A level without any cell adds 0.

    Args:
        student_channels: C_s of each level; None, with teacher_channels None, compares without adaptation.
        teacher_channels: C_t of each level.
        strides: pixels of a cell on each level.
        anchors: widths and heights in pixels on each level.
        threshold: share of a box's best IoU from which a cell counts, the paper's 0.5.

    Raises:
        LossError: lists of different length, or a threshold not above 0.

    Example:
        >>> loss = FGFI(strides=[8], anchors=[[(16, 16)]])
        >>> student, teacher = torch.zeros(1, 2, 8, 8), torch.ones(1, 2, 8, 8)
        >>> loss([student], [teacher], [torch.tensor([[10.0, 12, 30, 28]])]).item()  # 2 channels, half of 1²
        1.0
    """

    paper = 'Wang et al. 2019, arXiv 1906.03609'
    takes: ClassVar[Takes] = 'maps, boxes'
    usual = Usual(weight=0.01, start_step=400)

    def __init__(
        self,
        student_channels: Sequence[int] | None = None,
        teacher_channels: Sequence[int] | None = None,
        strides: Sequence[int] = YOLOV5_STRIDES,
        anchors: Sequence[Anchors] = YOLOV5_ANCHORS,
        threshold: float = 0.5,
    ) -> None:
        super().__init__()
        positive(threshold=threshold)
        adapted = student_channels is not None and teacher_channels is not None
        student_channels, teacher_channels = student_channels or (), teacher_channels or ()
        lengths = {len(strides), len(anchors)} | ({len(student_channels), len(teacher_channels)} if adapted else set())
        if len(lengths) != 1:
            raise LossError(f'strides, anchors and channels must be lists of one length, not of {sorted(lengths)}')
        self.strides = tuple(strides)
        self.anchors = tuple(tuple(level) for level in anchors)
        self.threshold = threshold
        self.adapters = (
            nn.ModuleList(_adapter(*pair) for pair in zip(student_channels, teacher_channels, strict=True))
            if adapted
            else nn.ModuleList(nn.Identity() for _ in strides)
        )

    def forward(self, students: Sequence[Tensor], teachers: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """The loss of the levels' maps near the boxes of each image."""
        if not len(students) == len(teachers) == len(self.strides):
            raise LossError(
                f'{len(self.strides)} strides, but {len(students)} maps of the student and {len(teachers)} of the teacher'
            )
        adapted = [adapter(student) for adapter, student in zip(self.adapters, students, strict=True)]
        pairs = [paired(student, teacher) for student, teacher in zip(adapted, teachers, strict=True)]
        if len(boxes) != len(pairs[0][0]):
            raise LossError(f'{len(boxes)} lists of boxes for a batch of {len(pairs[0][0])}')
        masks = self.masks(boxes, [(teacher.shape[2], teacher.shape[3]) for _, teacher in pairs])
        return torch.stack(
            [_imitation(student, teacher, mask) for (student, teacher), mask in zip(pairs, masks, strict=True)]
        ).sum()

    def masks(self, boxes: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """The masks (N, H, W) of each level; sizes are (H, W)."""
        each = [imitation_masks(of_image, sizes, self.strides, self.anchors, self.threshold) for of_image in boxes]
        return [torch.stack(level) for level in zip(*each, strict=True)]


def _adapter(student_channels: int, teacher_channels: int) -> nn.Module:
    convolution = nn.Conv2d(student_channels, teacher_channels, 3, padding=1)
    nn.init.normal_(convolution.weight, std=1e-4)
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return nn.Sequential(convolution, nn.ReLU())


def _imitation(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    mask = mask.to(student)
    # An empty mask makes the sum 0, and 0 / 2 is what is wanted.
    return torch.sum(mask.unsqueeze(1) * (student - teacher) ** 2) / (2 * mask.sum().clamp(min=1))


def imitation_masks(
    boxes: Tensor,
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    anchors: Sequence[Anchors],
    threshold: float = 0.5,
) -> list[Tensor]:
    """The cells near the boxes of one image: a mask (H, W) of each level.

    A cell counts when one of its anchors overlaps some box k with an IoU above threshold · m_k, m_k being the box's best
    IoU with any anchor of any cell and level. Anchors sit at cell centres and may reach out of the image. A box that no
    anchor touches (m_k = 0) marks nothing.

    Args:
        boxes: (K, 4) x1, y1, x2, y2 in input pixels.
        sizes: (H, W) of each level's map.
        strides: pixels of a cell on each level.
        anchors: widths and heights in pixels on each level.
        threshold: share of m_k, exclusive.

    Raises:
        LossError: boxes of another shape.

    Example:
        >>> imitation_masks(torch.tensor([[10.0, 12, 30, 28]]), [(8, 8)], [8], [[(16, 16), (32, 16)]])[0].nonzero().tolist()
        [[2, 1], [2, 2], [2, 3]]
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise LossError(f'boxes are (K, 4), not {tuple(boxes.shape)}')
    levels = list(zip(sizes, strides, anchors, strict=True))
    if not len(boxes):
        return [torch.zeros(size, dtype=torch.bool, device=boxes.device) for size in sizes]
    overlaps = [_anchor_iou(boxes.detach(), *level) for level in levels]
    best = torch.stack([overlap.flatten(1).amax(1) for overlap in overlaps]).amax(0)
    # Strictly above: with m_k = 0 no cell is marked.
    limit = (threshold * best)[:, None, None, None]
    return [(overlap > limit).flatten(0, 1).any(0) for overlap in overlaps]


def _anchor_iou(boxes: Tensor, size: tuple[int, int], stride: int, anchors: Anchors) -> Tensor:
    """IoU of K boxes with A anchors in every cell: (K, A, H, W).

    The overlap of rectangles is the product of a row's and a column's part, so that nothing is laid out as a mesh.
    """
    # float16 has no room for areas in pixels.
    boxes = boxes if boxes.dtype == torch.float64 else boxes.float()
    shapes = boxes.new_tensor(list(anchors))
    x1, y1, x2, y2 = boxes.T[..., None, None].unbind()
    height, width = (
        _overlap(cells, stride, shapes[:, axis, None], low, high)
        for cells, axis, low, high in ((size[0], 1, y1, y2), (size[1], 0, x1, x2))
    )
    overlap = height[:, :, :, None] * width[:, :, None, :]
    areas = ((x2 - x1) * (y2 - y1))[..., None] + (shapes[:, 0] * shapes[:, 1])[:, None, None]
    return overlap / (areas - overlap)


def _overlap(cells: int, stride: int, extents: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Length common to boxes low … high (K, 1, 1) and anchors of `extents` (A, 1) at the cells' centres: (K, A, cells)."""
    centers = (torch.arange(cells, dtype=low.dtype, device=low.device) + 0.5) * stride
    return (torch.minimum(high, centers + extents / 2) - torch.maximum(low, centers - extents / 2)).clamp(min=0)
