"""Kinds of detectors as the trainer meets them: what each needs before training, how it is run, its own loss.

| family | loss | unlabelled images |
|---|---|---|
| YOLOv5u, v8, 11, 26 | Ultralytics' | yes |
| RT-DETR | Ultralytics', its queries drawn from the labels | no |
| YOLOv4 | CIoU, objectness, classes (`yolov4.loss`) | no: its head is not compared with a teacher's |
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from training.data.loader import Batch
from training.distill.outputs import yolo_head
from training.models.yolov4.loss import YOLOv4Loss
from training.models.yolov4.network import YOLOv4

Targets = Mapping[str, Any]
"""`img`: the labelled images; of each object its image `batch_idx`, class `cls` (K, 1), and box `bboxes` (K, 4), relative centre
and size."""


class Family(Protocol):
    """A kind of detector.

    Attributes:
        name: in errors.
        takes_unlabelled: whether a teacher's heads can teach it on images without labels.
    """

    name: str
    takes_unlabelled: bool

    def predict(self, network: Any, images: Tensor, targets: Targets) -> Any:
        """What it puts out in training form; images (N, 3, H, W) in 0 … 1."""
        ...

    def loss(self, network: Any, targets: Targets, predictions: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The task's loss, the mean over the labelled images, and its parts."""
        ...

    def bare(self, network: Any) -> Any:
        """A copy of the network alone, without what the training hung on it."""
        ...


class UltralyticsYolo:
    """Networks with Ultralytics' Detect."""

    name = 'YOLO'
    takes_unlabelled = True

    def __init__(self, network: Any) -> None:
        from ultralytics.cfg import get_cfg

        network.args = get_cfg()
        network.nc = network.model[-1].nc  # RT-DETR's asks for it
        network.criterion = network.init_criterion()

    def predict(self, network: Any, images: Tensor, targets: Targets) -> Any:
        """See Family."""
        return network(images)

    def loss(self, network: Any, targets: Targets, predictions: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Ultralytics' is the sum over the images."""
        loss, parts = network.loss(targets, predictions)
        return loss.sum() / len(targets['img']), parts

    def bare(self, network: Any) -> Any:
        """See Family."""
        network = copy.deepcopy(network)
        del network.criterion, network.args, network.nc
        return network


class RTDETR(UltralyticsYolo):
    """Networks with Ultralytics' RTDETRDecoder."""

    name = 'RT-DETR'
    takes_unlabelled = False

    def predict(self, network: Any, images: Tensor, targets: Targets) -> Any:
        """Its denoising queries are made from the labels."""
        counts = [int((targets['batch_idx'] == image).sum()) for image in range(len(images))]
        objects = {
            'cls': targets['cls'].long().view(-1),
            'bboxes': targets['bboxes'],
            'batch_idx': targets['batch_idx'].long(),
            'gt_groups': counts,
        }
        return network.predict(images, batch=objects)

    def loss(self, network: Any, targets: Targets, predictions: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Ultralytics' is the mean over the objects."""
        loss, parts = network.loss(targets, predictions)
        return loss.sum(), parts


class AnchorYolo:
    """YOLOv4 with any backbone."""

    name = 'YOLOv4'
    takes_unlabelled = False

    def __init__(self, network: YOLOv4) -> None:
        self._criterion = YOLOv4Loss(network).to(network.anchors.device)

    def predict(self, network: Any, images: Tensor, targets: Targets) -> Any:
        """See Family."""
        return network(images)

    def loss(self, network: Any, targets: Targets, predictions: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The mean over the objects."""
        height, width = targets['img'].shape[2:]
        relative = targets['bboxes']
        sides = relative.new_tensor([width, height])
        halves = relative[:, 2:] / 2
        corners = relative[:, :2].repeat(1, 2)
        corners[:, :2] -= halves
        corners[:, 2:] += halves
        boxes, class_ids = corners * sides.repeat(2), targets['cls'].view(-1)
        of_image = [targets['batch_idx'] == image for image in range(len(targets['img']))]
        parts = self._criterion(predictions, [boxes[own] for own in of_image], [class_ids[own] for own in of_image])
        total: Tensor = sum(parts.values(), start=predictions[0].new_zeros(()))
        return total, {name: value.detach() for name, value in parts.items()}

    def bare(self, network: Any) -> Any:
        """See Family."""
        return copy.deepcopy(network)


def family_of(network: Any) -> Family:
    """The family of a network, which is made ready for training."""
    if isinstance(network, YOLOv4):
        return AnchorYolo(network)
    return RTDETR(network) if yolo_head(network) is None else UltralyticsYolo(network)


def targets_of(batch: Batch, images: Tensor) -> dict[str, Any]:
    """A batch as Ultralytics' losses want it."""
    return {
        'img': images[: batch.labelled],
        'batch_idx': batch.image_ids.to(images.device, torch.float32),
        'cls': batch.class_ids.to(images.device).view(-1, 1),
        'bboxes': batch.boxes.to(images.device),
    }
