"""Backbones behind one interface: an image in, three maps out; every one also serves as a classifier.

A backbone tells `channels` and `strides` of its maps. `cspdarknet53` is YOLOv4's own; `mobilenet_v2` is torchvision's; `repvit_*`
are timm's, which train with three branches and are deployed as one. `timm/NAME` is any other of timm's networks that has maps at
strides 8, 16 and 32, such as `timm/efficientnet_lite0` and `timm/resnet18`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from training import torchvision_nms
from training.errors import WeightsError
from training.models.yolov4.csp_darknet import CSPDarknet53
from training.schema import nearest


class Backbone(Protocol):
    """What YOLOv4 asks of a backbone.

    Attributes:
        channels: of its three maps, finest first.
        strides: pixels per cell of each.
    """

    channels: tuple[int, int, int]
    strides: tuple[int, int, int]

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """RGB (N, 3, H, W) in 0 … 1 → three maps."""
        ...


class MobileNetV2(nn.Module):
    """torchvision's MobileNetV2 (Sandler 2018) up to its last bottleneck."""

    channels = (32, 96, 320)
    strides = (8, 16, 32)

    def __init__(self) -> None:
        super().__init__()
        torchvision_nms.ensure()
        from torchvision.models import mobilenet_v2  # type: ignore[import-untyped]

        features = mobilenet_v2(weights=None).features
        self.fine, self.middle, self.coarse = features[:7], features[7:14], features[14:18]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps with 32, 96 and 320 channels."""
        fine = self.fine(image)
        middle = self.middle(fine)
        return fine, middle, self.coarse(middle)


class RepViT(nn.Module):
    """timm's RepViT (Wang 2024): m0_9, m1_0, m1_1, m1_5, m2_3.

    Args:
        size: of the family.
    """

    strides = (8, 16, 32)

    def __init__(self, size: str) -> None:
        super().__init__()
        torchvision_nms.ensure()
        import timm

        self.name, self.levels = f'repvit_{size}', (1, 2, 3)
        self.body = timm.create_model(self.name, pretrained=False, features_only=True, out_indices=self.levels)
        described: Any = self.body.feature_info
        self.channels: tuple[int, int, int] = tuple(described.channels())

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps at strides 8, 16 and 32."""
        fine, middle, coarse = self.body(image)
        return fine, middle, coarse

    def reparameterise(self) -> None:
        """Join the branches of each block into one convolution, for deployment; there is no way back to training."""
        from timm.utils.model import reparameterize_model

        self.body = reparameterize_model(self.body)


class OfTimm(nn.Module):
    """Any convolutional network of timm with maps at strides 8, 16 and 32.

    Args:
        name: timm's.

    Raises:
        WeightsError: timm has no such network, it is too large, or it has no such maps.
    """

    strides = (8, 16, 32)

    def __init__(self, name: str) -> None:
        super().__init__()
        torchvision_nms.ensure()
        import timm

        # What timm calls a model may also be an address to fetch one from.
        if not _TIMM_NAME.fullmatch(name) or not timm.is_model(name):
            raise WeightsError(f'timm has no network {name!r}{nearest(name, timm.list_models())}')
        try:
            with torch.device('meta'):
                described: Any = timm.create_model(name, pretrained=False, features_only=True)
        except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError) as error:
            raise WeightsError(f"timm's {name} does not put out maps: {error}") from error
        if parameter_count(described) > MOST_PARAMETERS:
            raise WeightsError(f"timm's {name} has more than {MOST_PARAMETERS} parameters")
        reductions = described.feature_info.reduction()
        if not set(self.strides) <= set(reductions):
            raise WeightsError(f"timm's {name} has maps at strides {reductions}, not at 8, 16 and 32")
        self.name = name
        self.levels = tuple(len(reductions) - 1 - reductions[::-1].index(stride) for stride in self.strides)
        self.body = timm.create_model(name, pretrained=False, features_only=True, out_indices=self.levels)
        self.channels: tuple[int, int, int] = tuple(cast(Any, self.body.feature_info).channels())

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps at strides 8, 16 and 32."""
        fine, middle, coarse = self.body(image)
        return fine, middle, coarse


TIMM = 'timm/'
MOST_PARAMETERS = 200_000_000
_TIMM_NAME = re.compile(r'[a-z0-9_]{1,60}')


BACKBONES: dict[str, Callable[[], nn.Module]] = {
    'cspdarknet53': CSPDarknet53,
    'mobilenet_v2': MobileNetV2,
    **{f'repvit_{size}': partial(RepViT, size) for size in ('m0_9', 'm1_0', 'm1_1', 'm1_5', 'm2_3')},
}
"""Every backbone by its name in a recipe."""


def is_backbone(name: str) -> bool:
    """Whether a recipe's word names a backbone."""
    return name in BACKBONES or name.startswith(TIMM)


def make_backbone(name: str) -> nn.Module:
    """A backbone with random weights.

    Raises:
        WeightsError: no such backbone; the nearest name is offered.
    """
    if name.startswith(TIMM):
        return OfTimm(name.removeprefix(TIMM))
    if name not in BACKBONES:
        raise WeightsError(
            f'there is no backbone {name!r}{nearest(name, BACKBONES)}; backbones are {", ".join(BACKBONES)}, and timm/NAME'
        )
    return BACKBONES[name]()


class Classifier(nn.Module):
    """A backbone with pooling and one linear layer: what is distilled before it becomes a detector's backbone.

    Args:
        backbone: see `make_backbone`.
        classes: number of them.
        small: for small pictures: the first convolution that halves the picture does not, so that the maps have twice as many
            cells a side. The weights are the same, and a detector takes them as they are.
    """

    def __init__(self, backbone: str, classes: int, *, small: bool = False) -> None:
        super().__init__()
        self.name, self.small = backbone, small
        self.backbone = make_backbone(backbone)
        self.channels = cast(Backbone, self.backbone).channels
        self.strides: tuple[int, ...] = cast(Backbone, self.backbone).strides
        if small:
            first = next(
                layer for layer in self.backbone.modules() if isinstance(layer, nn.Conv2d) and layer.stride[0] > 1
            )
            first.stride = (1, 1)
            self.strides = tuple(stride // 2 for stride in self.strides)
        self.head = nn.Linear(self.channels[-1], classes)

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        """RGB (N, 3, H, W) → the maps of the backbone, the pooled last one (N, C), logits (N, classes)."""
        maps = self.backbone(image)
        pooled = maps[-1].mean((2, 3))
        return self.head(pooled), maps, pooled


def parameter_count(module: nn.Module) -> int:
    """Number of trained values."""
    return sum(parameter.numel() for parameter in module.parameters())


def mebibytes(module: nn.Module) -> float:
    """Size of the parameters as float32, in MiB: the papers' "MB"."""
    return parameter_count(module) * torch.float32.itemsize / 2**20
