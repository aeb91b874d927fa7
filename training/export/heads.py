"""Detectors of every family as one kind of module: the camera's pixels in, boxes and scores out.

| family | head | boxes |
|---|---|---|
| YOLOv5u, v8, 9, 10, 11, 12 | a distribution over distance bins a side | its mean, from the cell's centre |
| YOLO26 | distances without bins | from the cell's centre |
| RT-DETR | queries | centre and size as shares of the image |
| YOLOv4 | anchors | as `training.models.yolov4.network.decode` has it, cell by cell |

YOLOv10 and 26 have two branches: one-to-one, which needs no NMS, and one-to-many, which needs it. Our runtime has NMS anyhow,
so the one-to-many branch is exported: it is the more accurate one (YOLO26n on COCO, as Ultralytics publish it: 40.9 against 40.1
mAP50-95), and its graph has neither TopK nor Gather. A network that was fused to its one-to-one branch exports that.

Channel order and the division by 255 are in the first convolution's weights. Pruned networks need nothing: only shapes are read.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from training import torchvision_nms
from training.errors import ExportError
from training.models.yolov4.network import YOLOv4, deployed

if TYPE_CHECKING:
    from ultralytics.nn.modules import Detect, RTDETRDecoder

ANCHORS_PER_CELL = 3


class BoxesScores(nn.Module):
    """A detector for one input size, as our runtime asks for it.

    Args:
        body: BGR (1, 3, H, W) in 0 … 255 → what the head reads.
        head: that → boxes (1, N, 4) x1 y1 x2 y2 in input pixels, scores (1, N, C) in 0 … 1.
    """

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Image uint8 (1, H, W, 3) BGR → boxes (1, N, 4) in pixels, scores (1, N, C)."""
        boxes, scores = self.head(self.body(image.float().permute(0, 3, 1, 2)))
        return boxes, scores


def boxes_scores(network: nn.Module, width: int, height: int) -> BoxesScores:
    """Any detector of ours as a `BoxesScores`.

    Args:
        network: copied, not changed.
        width: input width in pixels, a multiple of the largest stride.
        height: input height likewise.

    Raises:
        ExportError: a head that we do not know, or a size off the stride.
    """
    network = copy.deepcopy(network).float().eval()
    module = _yolov4(network, width, height) if isinstance(network, YOLOv4) else _ultralytics(network, width, height)
    return module.eval().requires_grad_(False)


def _ultralytics(network: nn.Module, width: int, height: int) -> BoxesScores:
    torchvision_nms.ensure()
    from ultralytics.nn.modules import Detect, RTDETRDecoder, v10Detect

    layers = getattr(network, 'model', None)
    head = layers[-1] if isinstance(layers, nn.Sequential) else network
    if type(head) not in (Detect, v10Detect, RTDETRDecoder):
        raise ExportError(
            f'there is no export for the head {type(head).__name__}; heads are Detect (YOLOv5u to 26), RTDETRDecoder and YOLOv4'
        )
    if isinstance(head, Detect) and head.cv2 is not None:
        head.end2end = False  # fusing drops the other branch
    network.fuse(verbose=False)  # type: ignore[operator]
    assert isinstance(layers, nn.Sequential)
    strides = [int(stride) for stride in network.stride]  # type: ignore[union-attr]
    _check_size(width, height, max(strides))
    body = Layers(list(layers)[:-1], cast(list[int], head.f))
    fold_normalization(_first_convolution(body))
    if isinstance(head, Detect):
        return BoxesScores(body, DistanceHead(head, width, height))
    return BoxesScores(body, QueryHead(cast('RTDETRDecoder', head), width, height))


def _yolov4(network: YOLOv4, width: int, height: int) -> BoxesScores:
    _check_size(width, height, max(cast(tuple[int, ...], network.strides)))
    network = deployed(network)
    _without_softplus(network)
    head = AnchorHead(network, width, height)
    body = nn.Sequential(network.backbone, network.neck)
    fold_normalization(_first_convolution(body))
    return BoxesScores(body, head)


def _check_size(width: int, height: int, stride: int) -> None:
    if width % stride or height % stride:
        raise ExportError(f'input {width}x{height} must be a multiple of the largest stride, {stride}')


def _first_convolution(body: nn.Module) -> nn.Conv2d:
    first = next((module for module in body.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or first.in_channels != 3:
        raise ExportError(
            'the network does not begin with a convolution of three channels, into which 1/255 could be folded'
        )
    return first


def fold_normalization(convolution: nn.Conv2d) -> None:
    """Make a convolution that expects RGB in 0 … 1 take BGR in 0 … 255. Zero padding stays right, as black is 0 in both."""
    with torch.no_grad():
        convolution.weight.copy_(convolution.weight.flip(1) / 255)


class Layers(nn.Module):
    """Ultralytics' layers without the head. `f` of a layer names where its input comes from, -1 is the layer before.

    Args:
        layers: in order.
        outputs: numbers of the layers that the head reads.
    """

    def __init__(self, layers: Sequence[nn.Module], outputs: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.outputs = list(outputs)

    def forward(self, value: Any) -> list[torch.Tensor]:
        """The maps that the head reads."""
        outputs: list[torch.Tensor] = []
        for layer in self.layers:
            source: Any = layer.f
            if source != -1:
                value = (
                    outputs[source]
                    if isinstance(source, int)
                    else [value if number == -1 else outputs[number] for number in source]
                )
            value = layer(value)
            outputs.append(value)
        return [outputs[number] for number in self.outputs]


class DistanceHead(nn.Module):
    """Ultralytics' Detect: from every cell's centre the distances to the box's four sides, with bins or without.

    Args:
        head: fused, so that one branch is left; its layers are taken over.
        width: of the input in pixels.
        height: likewise.
    """

    distances: torch.Tensor
    centers: torch.Tensor
    steps: torch.Tensor

    def __init__(self, head: Detect, width: int, height: int) -> None:
        super().__init__()
        one_to_one = head.cv2 is None
        self.box_branches = head.one2one_cv2 if one_to_one else head.cv2
        self.score_branches = head.one2one_cv3 if one_to_one else head.cv3
        self.bins = int(head.reg_max)
        strides = [int(stride) for stride in head.stride]
        self.cell_counts = [(width // stride) * (height // stride) for stride in strides]
        centers, steps = cells(width, height, strides)
        self.register_buffer('distances', torch.arange(self.bins, dtype=torch.float32).reshape(1, 1, self.bins, 1))
        self.register_buffer('centers', centers)
        self.register_buffer('steps', steps)

    def forward(self, maps: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps → boxes (1, N, 4), scores (1, N, C)."""
        near, far = self._distances(self._joined(self.box_branches, maps)).chunk(2, dim=1)
        boxes = torch.cat([self.centers - near, self.centers + far], 1) * self.steps
        return boxes.transpose(1, 2), self._joined(self.score_branches, maps).sigmoid().transpose(1, 2)

    def _distances(self, values: torch.Tensor) -> torch.Tensor:
        if self.bins == 1:
            return values
        distribution = values.reshape(1, 4, self.bins, sum(self.cell_counts)).softmax(2)
        return (distribution * self.distances).sum(2)

    def _joined(self, branches: Any, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Branch by level → (1, C, N), with sizes written into the graph as constants."""
        levels = zip(branches, maps, self.cell_counts, strict=True)
        return torch.cat([branch(value).reshape(1, -1, count) for branch, value, count in levels], 2)


def cells(width: int, height: int, strides: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Cell centres (1, 2, N), x then y in cells, and the pixels per cell (1, 1, N), level by level, row by row."""
    centers, steps = [], []
    for stride in strides:
        rows, columns = height // stride, width // stride
        y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing='ij')
        centers.append(torch.stack([x.flatten(), y.flatten()]))
        steps.append(torch.full((1, rows * columns), float(stride)))
    return torch.cat(centers, 1)[None], torch.cat(steps, 1)[None]


class QueryHead(nn.Module):
    """RT-DETR's decoder: every query is a box, given as centre and size relative to the image.

    Args:
        head: the decoder; taken over.
        width: of the input in pixels.
        height: likewise.
    """

    size: torch.Tensor

    def __init__(self, head: RTDETRDecoder, width: int, height: int) -> None:
        super().__init__()
        self.decoder = head
        self.register_buffer('size', torch.tensor([width, height], dtype=torch.float32))

    def forward(self, maps: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps → boxes (1, queries, 4), scores (1, queries, C)."""
        _, (boxes, logits, *_) = self.decoder(list(maps))
        centers, sides = boxes.squeeze(0).chunk(2, dim=2)
        corners = torch.cat([(centers - sides / 2) * self.size, (centers + sides / 2) * self.size], 2)
        return corners, logits.squeeze(0).sigmoid()


class AnchorHead(nn.Module):
    """YOLOv4's three heads, candidates in the order of levels, rows, columns, anchors.

    Each head's last 1×1 convolution is written as two products over a list of cells: one for places and objectness, one for
    classes. So the scores, by far the most numbers, come out in the order in which the graph returns them; and a product may
    read INT8 and write float, which no convolution of ONNX Runtime can.

    Args:
        network: whose heads are taken over.
        width: of the input in pixels.
        height: likewise.
    """

    reach: torch.Tensor
    starts: torch.Tensor
    half_anchors: torch.Tensor

    def __init__(self, network: YOLOv4, width: int, height: int) -> None:
        super().__init__()
        self.classes = network.classes
        heads = [cast(nn.Sequential, head) for head in network.heads]
        self.branches = nn.ModuleList(head[:-1] for head in heads)
        products = [_as_products(cast(nn.Conv2d, head[-1]), self.classes) for head in heads]
        self.places = nn.ModuleList(place for place, _ in products)
        self.logits = nn.ModuleList(logit for _, logit in products)
        strides = cast(tuple[int, ...], network.strides)
        levels = [(width // stride) * (height // stride) for stride in strides]
        centers, steps = cells(width, height, strides)
        scales = torch.cat(
            [torch.full((count,), scale) for count, scale in zip(levels, network.center_scales, strict=True)]
        )
        anchors = [sizes.repeat(count, 1) for count, sizes in zip(levels, network.anchors, strict=True)]
        starts = (centers[0] - scales / 2) * steps[0]
        self.register_buffer('reach', (scales * steps[0, 0]).repeat_interleave(ANCHORS_PER_CELL)[:, None])
        self.register_buffer('starts', starts.T.repeat_interleave(ANCHORS_PER_CELL, 0))
        self.register_buffer('half_anchors', torch.cat(anchors) / 2)

    def forward(self, maps: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps → boxes (1, N, 4), scores (1, N, C)."""
        lists = [_cell_list(branch(value)) for branch, value in zip(self.branches, maps, strict=True)]
        places, logits = _joined(self.places, lists, 5), _joined(self.logits, lists, self.classes)
        offsets, sizes, objectness = torch.split(places, [2, 2, 1], 2)
        centers = offsets.sigmoid() * self.reach + self.starts
        halves = sizes.exp() * self.half_anchors
        return torch.cat([centers - halves, centers + halves], 2), objectness.sigmoid() * logits.sigmoid()


def _cell_list(value: torch.Tensor) -> torch.Tensor:
    """(1, C, H, W) → (H·W, C)."""
    return value.permute(0, 2, 3, 1).reshape(-1, value.shape[1])


def _joined(products: nn.ModuleList, lists: Sequence[torch.Tensor], channels: int) -> torch.Tensor:
    """What the products of all levels make of their cells, (1, N, channels)."""
    found = [product(value) for product, value in zip(products, lists, strict=True)]
    return torch.cat([value.reshape(1, -1, channels) for value in found], 1)


def _as_products(convolution: nn.Conv2d, classes: int) -> tuple[nn.Linear, nn.Linear]:
    """A 1×1 convolution of (5 + classes) channels an anchor as products for the five, and for the classes."""
    weight = convolution.weight.reshape(ANCHORS_PER_CELL, 5 + classes, -1)
    bias = cast(torch.Tensor, convolution.bias).reshape(ANCHORS_PER_CELL, 5 + classes)
    return _product(weight[:, :5], bias[:, :5]), _product(weight[:, 5:], bias[:, 5:])


def _product(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    """Of weights (anchors, outputs, inputs) and bias (anchors, outputs)."""
    product = nn.Linear(weight.shape[2], bias.numel())
    product.weight, product.bias = nn.Parameter(weight.flatten(0, 1)), nn.Parameter(bias.flatten())
    return product


class SigmoidMish(nn.Module):
    """Mish without Softplus: x·tanh(ln(1 + eˣ)) = m − m / (½ + ½·σ(m)²) with m = −x.

    ONNX Runtime computes Softplus, and opset 18's Mish, without vector instructions: this form takes a sixth of the time. σ never
    overflows, as eˣ would; and in INT8 the one reader of x is the one that has to dequantize it.
    """

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """Any shape."""
        negative = -value
        rest = torch.sigmoid(negative)
        return negative - negative / (rest * rest * 0.5 + 0.5)


def _without_softplus(network: nn.Module) -> None:
    """Give every Mish its quicker form."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Mish):
                setattr(module, name, SigmoidMish())
