"""YOLOv4 (Bochkovskiy 2020): exchangeable backbone, spatial pyramid pooling, path aggregation, three anchor heads.

With CSPDarknet53 and 80 classes it is the public network: 64,363,101 parameters.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from training.errors import WeightsError
from training.models.yolov4.backbones import Backbone, RepViT, make_backbone
from training.models.yolov4.layers import ConvBN, DepthwiseConvBN, SpatialPyramidPooling

ANCHORS = (
    ((12.0, 16.0), (19.0, 36.0), (40.0, 28.0)),
    ((36.0, 75.0), (76.0, 55.0), (72.0, 146.0)),
    ((142.0, 110.0), (192.0, 243.0), (459.0, 401.0)),
)
"""Width and height in pixels, three for each stride, as published for COCO at 512² and 608²."""
CENTER_SCALES = {'cell': (1.2, 1.1, 1.05), 'neighbors': (2.0, 2.0, 2.0)}
"""By assignment, how far beyond its cell a center may lie: σ(t)·s − (s − 1)/2, which reaches the cell's border without an endless
t. `cell` is YOLOv4's: one cell answers for an object. `neighbors` is Scaled-YOLOv4's (Wang 2021): the two nearest cells do so
too, which gives a short training three times as many examples of a box."""
OBJECTNESS = 0.01
"""Of fresh weights: the share of cells that hold an object, about (Lin 2017, focal loss, section 4.1)."""
MATCH = 0.213
"""Darknet's `iou_thresh` in yolov4.cfg."""
NECKS = ('full', 'depthwise', 'light')
"""`full` is YOLOv4's. `depthwise` has depthwise 3×3 convolutions, and ReLU6 throughout, which INT8 takes into the convolution.
`light` is `depthwise` with three convolutions instead of five where the ways up and down meet."""


def three_by_three(inputs: int, outputs: int, stride: int, neck: str) -> nn.Module:
    """The neck's 3×3 convolution: full, or depthwise and pointwise."""
    if neck == 'full':
        return ConvBN(inputs, outputs, 3, stride)
    return DepthwiseConvBN(inputs, outputs, stride)


def one_by_one(inputs: int, outputs: int, neck: str) -> ConvBN:
    """The neck's 1×1 convolution."""
    return ConvBN(inputs, outputs, 1, activation='leaky' if neck == 'full' else 'relu6')


def alternating(inputs: int, narrow: int, count: int, neck: str) -> nn.Sequential:
    """`count` convolutions, 1×1 to `narrow` and 3×3 to twice as many in turn, beginning and ending with 1×1."""
    layers: list[nn.Module] = []
    for number in range(count):
        if number % 2 == 0:
            layers.append(one_by_one(inputs if number == 0 else 2 * narrow, narrow, neck))
        else:
            layers.append(three_by_three(narrow, 2 * narrow, 1, neck))
    return nn.Sequential(*layers)


class PathAggregation(nn.Module):
    """SPP on the coarsest map, then a way up and a way down (PANet, Liu 2018).

    Args:
        channels: of the backbone's maps, finest first.
        neck: one of NECKS.
        width: share of YOLOv4's channels.

    Attributes:
        outputs: channels of the three maps that it gives, finest first.
    """

    def __init__(self, channels: Sequence[int], neck: str, width: float = 1.0) -> None:
        super().__init__()
        fine, middle, coarse = channels
        self.outputs = tuple(8 * max(round(count * width / 8), 1) for count in (128, 256, 512))
        low, mid, high = self.outputs
        meeting = 3 if neck == 'light' else 5
        self.before_pooling = alternating(coarse, high, 3, neck)
        self.pooling = SpatialPyramidPooling()
        self.behind_pooling = alternating(4 * high, high, 3, neck)
        self.up = nn.Upsample(scale_factor=2)
        self.coarse_to_middle = one_by_one(high, mid, neck)
        self.middle_lateral = one_by_one(middle, mid, neck)
        self.middle_up = alternating(2 * mid, mid, meeting, neck)
        self.middle_to_fine = one_by_one(mid, low, neck)
        self.fine_lateral = one_by_one(fine, low, neck)
        self.fine_up = alternating(2 * low, low, meeting, neck)
        self.fine_to_middle = three_by_three(low, mid, 2, neck)
        self.middle_down = alternating(2 * mid, mid, meeting, neck)
        self.middle_to_coarse = three_by_three(mid, high, 2, neck)
        self.coarse_down = alternating(2 * high, high, meeting, neck)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The backbone's maps → maps with `outputs` channels at the same strides."""
        fine, middle, coarse = maps
        coarse = self.behind_pooling(self.pooling(self.before_pooling(coarse)))
        middle = self.middle_up(torch.cat([self.middle_lateral(middle), self.up(self.coarse_to_middle(coarse))], 1))
        fine = self.fine_up(torch.cat([self.fine_lateral(fine), self.up(self.middle_to_fine(middle))], 1))
        middle = self.middle_down(torch.cat([self.fine_to_middle(fine), middle], 1))
        coarse = self.coarse_down(torch.cat([self.middle_to_coarse(middle), coarse], 1))
        return fine, middle, coarse


class YOLOv4(nn.Module):
    """The detector.

    Args:
        classes: number of them.
        backbone: name in `backbones.BACKBONES`.
        neck: one of NECKS.
        anchors: (3, 3, 2) widths and heights in pixels, finest stride first.
        width: of the neck and heads, as a share of YOLOv4's channels.
        match: in training an anchor answers for a box when the IoU of their shapes is over this, beside the best one.
        assignment: one of CENTER_SCALES.

    Raises:
        WeightsError: no such backbone, neck or assignment.
    """

    anchors: Tensor
    levels = ('neck.fine_up', 'neck.middle_down', 'neck.coarse_down')
    """The layers that the heads read, finest stride first."""
    yaml: dict[str, Any]
    names: dict[int, str]

    def __init__(
        self,
        classes: int,
        backbone: str = 'cspdarknet53',
        neck: str = 'full',
        anchors: Sequence[Sequence[Sequence[float]]] = ANCHORS,
        width: float = 1.0,
        match: float = MATCH,
        assignment: str = 'cell',
    ) -> None:
        super().__init__()
        if neck not in NECKS:
            raise WeightsError(f'there is no neck {neck!r}; necks are {", ".join(NECKS)}')
        if assignment not in CENTER_SCALES:
            raise WeightsError(f'there is no assignment {assignment!r}; there are {", ".join(CENTER_SCALES)}')
        self.match, self.assignment = match, assignment
        self.center_scales = CENTER_SCALES[assignment]
        self.backbone = make_backbone(backbone)
        described = cast(Backbone, self.backbone)
        self.strides = described.strides
        self.neck = PathAggregation(described.channels, neck, width)
        self.heads = nn.ModuleList(
            nn.Sequential(three_by_three(count, 2 * count, 1, neck), nn.Conv2d(2 * count, 3 * (5 + classes), 1))
            for count in self.neck.outputs
        )
        self.classes = classes
        self.register_buffer('anchors', torch.tensor(anchors, dtype=torch.float32))
        self._expect_few_objects()

    def begin_classes(self, classes: int) -> None:
        """Give each head a fresh last convolution, for other classes."""
        self.classes = classes
        for head in cast(Iterable[nn.Sequential], self.heads):
            last = cast(nn.Conv2d, head[-1])
            head[-1] = nn.Conv2d(last.in_channels, 3 * (5 + classes), 1)
        self._expect_few_objects()

    @torch.no_grad()
    def _expect_few_objects(self) -> None:
        """Objectness begins near OBJECTNESS everywhere, so that the first steps are not spent on the background."""
        for head in self.heads:
            bias = cast(nn.Sequential, head)[-1].bias
            assert isinstance(bias, Tensor)
            bias.view(3, 5 + self.classes)[:, 4] = math.log(OBJECTNESS / (1 - OBJECTNESS))

    def forward(self, image: Tensor) -> list[Tensor]:
        """RGB (N, 3, H, W) in 0 … 1 → for each stride raw (N, 3, 5 + classes, H/stride, W/stride): x y w h objectness classes."""
        maps = self.neck(self.backbone(image))
        raw = [head(value) for head, value in zip(self.heads, maps, strict=True)]
        return [value.reshape(len(value), 3, 5 + self.classes, *value.shape[2:]) for value in raw]


def deployed(network: YOLOv4) -> YOLOv4:
    """A copy in evaluation mode as it is run: RepViT's branches joined."""
    network = copy.deepcopy(network).float().eval()
    if isinstance(network.backbone, RepViT):
        network.backbone.reparameterise()
    return network


def decode(raw: Tensor, anchors: Tensor, stride: int, center_scale: float) -> tuple[Tensor, Tensor]:
    """One stride's raw output → boxes and scores.

    Args:
        raw: (N, 3, 5 + classes, H, W).
        anchors: (3, 2) in pixels.

    Returns:
        Boxes (N, 3·H·W, 4), x1 y1 x2 y2 in input pixels; scores (N, 3·H·W, classes), objectness times class, 0 … 1.
    """
    count, height, width = len(raw), raw.shape[3], raw.shape[4]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    cells = torch.stack([x, y]).to(raw)[None, None]
    centers = (raw[:, :, :2].sigmoid() * center_scale - (center_scale - 1) / 2 + cells) * stride
    halves = raw[:, :, 2:4].exp() * anchors.reshape(1, 3, 2, 1, 1).to(raw) / 2
    boxes = torch.cat([centers - halves, centers + halves], 2)
    scores = raw[:, :, 4:5].sigmoid() * raw[:, :, 5:].sigmoid()
    return (
        boxes.permute(0, 1, 3, 4, 2).reshape(count, -1, 4),
        scores.permute(0, 1, 3, 4, 2).reshape(count, 3 * height * width, -1),
    )
