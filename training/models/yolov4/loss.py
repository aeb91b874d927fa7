"""YOLOv4's training target and loss: CIoU for boxes, binary cross-entropy for objectness and classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.models.yolov4.network import YOLOv4, decode


@dataclass(frozen=True)
class YOLOv4LossSettings:
    """Weights and thresholds, those of Darknet's yolov4.cfg unless said otherwise.

    Attributes:
        box: weight of CIoU (`iou_normalizer` 0.07 there, where the other terms are summed over all cells; here every term is a
            mean over objects, as in most PyTorch implementations).
        objectness: weight of objectness.
        classes: weight of the classes.
        ignore: a negative whose predicted box overlaps an object more than this is left alone (`ignore_thresh`).
    """

    box: float = 1.0
    objectness: float = 1.0
    classes: float = 1.0
    ignore: float = 0.7


class YOLOv4Loss(nn.Module):
    """Loss of a YOLOv4 on a batch of labelled images.

    Args:
        network: whose anchors, strides, `match` and `assignment` count.
        settings: weights and thresholds.
    """

    def __init__(self, network: YOLOv4, settings: YOLOv4LossSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or YOLOv4LossSettings()
        self.strides, self.match, self.center_scales = network.strides, network.match, network.center_scales
        self.neighbors = network.assignment == 'neighbors'
        self.anchors: Tensor
        self.register_buffer('anchors', network.anchors.clone())

    def forward(self, raw: Sequence[Tensor], boxes: Sequence[Tensor], class_ids: Sequence[Tensor]) -> dict[str, Tensor]:
        """Three terms, each a scalar, weighted, means over the objects of the batch.

        Args:
            raw: the network's output, finest stride first, (N, 3, 5 + classes, H, W).
            boxes: for each image (K, 4), x1 y1 x2 y2 in input pixels.
            class_ids: for each image (K,).

        Returns:
            `box`, `objectness`, `classes`.
        """
        terms = {name: raw[0].new_zeros(()) for name in ('box', 'objectness', 'classes')}
        objects = max(sum(len(of_image) for of_image in boxes), 1)
        for level, value in enumerate(raw):
            for name, term in self._level(level, value.float(), boxes, class_ids).items():
                terms[name] = terms[name] + term
        weights = {'box': self.settings.box, 'objectness': self.settings.objectness, 'classes': self.settings.classes}
        return {name: weights[name] * term / objects for name, term in terms.items()}

    def _level(
        self, level: int, raw: Tensor, boxes: Sequence[Tensor], class_ids: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """The terms of one stride, summed."""
        count, _, channels, height, width = raw.shape
        found, _ = decode(raw, self.anchors[level], self.strides[level], self.center_scales[level])
        cells = raw.permute(0, 1, 3, 4, 2).reshape(count, -1, channels)
        wanted = torch.zeros_like(cells[..., 4])
        counted = torch.ones_like(wanted)
        box_term, class_term = raw.new_zeros(()), raw.new_zeros(())
        for image in range(count):
            if not len(boxes[image]):
                continue
            with torch.no_grad():
                overlap = iou(found[image], boxes[image].to(raw)).amax(1)
            counted[image] = (overlap <= self.settings.ignore).to(raw)
            owners, places = self._positives(level, boxes[image].to(raw), height, width)
            agreement = ciou(found[image, places], boxes[image].to(raw)[owners])
            # Scaled-YOLOv4's objectness says how well the box fits, so that of several cells the best one survives NMS.
            wanted[image, places] = agreement.detach().clamp(min=0) if self.neighbors else 1.0
            counted[image, places] = 1.0
            box_term = box_term + (1 - agreement).sum()
            targets = functional.one_hot(class_ids[image].long().to(raw.device)[owners], channels - 5).to(raw)
            class_term = class_term + functional.binary_cross_entropy_with_logits(
                cells[image, places, 5:], targets, reduction='sum'
            )
        objectness = functional.binary_cross_entropy_with_logits(cells[..., 4], wanted, reduction='none') * counted
        return {'box': box_term, 'objectness': objectness.sum(), 'classes': class_term}

    def _positives(self, level: int, boxes: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Which box each positive of this stride answers for, and its place among the 3·H·W."""
        sizes = boxes[:, 2:] - boxes[:, :2]
        shapes = shape_iou(sizes, self.anchors.reshape(-1, 2).to(sizes))
        positive = shapes > self.match
        positive[torch.arange(len(boxes)), shapes.argmax(1)] = True
        owners, anchors = positive[:, 3 * level : 3 * level + 3].nonzero(as_tuple=True)
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2 / self.strides[level]
        limits = torch.tensor([width - 1, height - 1], device=boxes.device)
        cells = torch.minimum(centers.long().clamp(min=0), limits)
        owners, anchors, cells = self._with_neighbors(owners, anchors, cells[owners], centers[owners], limits)
        return owners, (anchors * height + cells[:, 1]) * width + cells[:, 0]

    def _with_neighbors(
        self, owners: Tensor, anchors: Tensor, cells: Tensor, centers: Tensor, limits: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Beside each cell (K, 2) the nearest one across, and the nearest one up or down, where there is one."""
        if not self.neighbors:
            return owners, anchors, cells
        steps = torch.where(centers - cells < 0.5, -1, 1)
        around = torch.cat([cells, cells + steps * steps.new_tensor([1, 0]), cells + steps * steps.new_tensor([0, 1])])
        inside = ((around >= 0) & (around <= limits)).all(1)
        return owners.repeat(3)[inside], anchors.repeat(3)[inside], around[inside]


def shape_iou(sizes: Tensor, anchors: Tensor) -> Tensor:
    """IoU (K, A) of sizes (K, 2) and anchors (A, 2) laid on one another's centre."""
    inner = torch.minimum(sizes[:, None], anchors[None]).prod(2)
    return inner / (sizes.prod(1)[:, None] + anchors.prod(1)[None] - inner).clamp(min=1e-9)


def iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU (A, B) of boxes (A, 4) and (B, 4), x1 y1 x2 y2."""
    near = torch.maximum(first[:, None, :2], second[None, :, :2])
    far = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    inner = (far - near).clamp(min=0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    return inner / (areas[0][:, None] + areas[1][None] - inner).clamp(min=1e-9)


def ciou(first: Tensor, second: Tensor) -> Tensor:
    """Complete IoU of pairs of boxes (K, 4): IoU less the distance of centres and of aspect ratios (Zheng 2020, eq. 10)."""
    near, far = torch.maximum(first[:, :2], second[:, :2]), torch.minimum(first[:, 2:], second[:, 2:])
    inner = (far - near).clamp(min=0).prod(1)
    sizes = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6) for boxes in (first, second)]
    overlap = inner / (sizes[0].prod(1) + sizes[1].prod(1) - inner).clamp(min=1e-9)
    hull = torch.maximum(first[:, 2:], second[:, 2:]) - torch.minimum(first[:, :2], second[:, :2])
    offset = (first[:, :2] + first[:, 2:] - second[:, :2] - second[:, 2:]) / 2
    distance = offset.square().sum(1) / hull.square().sum(1).clamp(min=1e-9)
    angles = [torch.atan(size[:, 0] / size[:, 1]) for size in sizes]
    aspect = 4 / math.pi**2 * (angles[1] - angles[0]).square()
    with torch.no_grad():
        trade_off = aspect / (1 - overlap + aspect).clamp(min=1e-9)
    return overlap - distance - trade_off * aspect
