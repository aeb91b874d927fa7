"""The public YOLOv4's `.weights` of Darknet → our network.

The file is a header (three int32 for the version, then the number of images seen, int64 from version 0.2 on), then float32
values, convolution by convolution in the order of yolov4.cfg: batch norm's bias, scale, mean and variance (or the convolution's
own bias), then the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from training.errors import WeightsError
from training.models.yolov4.csp_darknet import CrossStage, CSPDarknet53
from training.models.yolov4.layers import ConvBN
from training.models.yolov4.network import YOLOv4

MAX_BYTES = 1 << 30
Pair = tuple[nn.Conv2d, 'nn.BatchNorm2d | None']


def load_darknet(network: YOLOv4, file: Path) -> int:
    """Fill `network` from a Darknet file; every value must find its place.

    Returns:
        The number of images that the weights were trained with.

    Raises:
        WeightsError: not readable, another network's file, or not the canonical network (CSPDarknet53, full neck).
    """
    if not isinstance(network.backbone, CSPDarknet53):
        raise WeightsError('Darknet weights are those of CSPDarknet53 with the full neck')
    seen, values = _read(file)
    convolutions = list(_in_order(network))
    wanted = sum(_count(*pair) for pair in convolutions)
    if len(values) != wanted:
        raise WeightsError(
            f'{file} holds {len(values)} values, this network takes {wanted}: another network or number of classes?'
        )
    _fill(convolutions, values)
    return seen


def darknet_network(file: Path) -> tuple[YOLOv4, tuple[str, ...]]:
    """The public YOLOv4 of a Darknet file, for as many classes as it has values for, in evaluation mode, and its classes.

    80 classes are COCO's; others have no names in such a file and are `class 0` and so on.

    Raises:
        WeightsError: as `load_darknet`.
    """
    from training.models.yolov4.architecture import FAMILY, build

    _, values = _read(file)
    least, more = (sum(_count(*pair) for pair in _in_order(_on_meta(count))) for count in (1, 2))
    count, rest = divmod(len(values) - least, more - least)
    if count < 0 or rest:
        raise WeightsError(
            f'{file} holds {len(values)} values, which is no YOLOv4 (CSPDarknet53, full neck) for any number of classes; a file '
            'of the backbone alone, yolov4.conv.137, is for `backbone`'
        )
    classes = (
        coco_names() if count + 1 == len(coco_names()) else tuple(f'class {number}' for number in range(count + 1))
    )
    network = build({'family': FAMILY}, classes)
    load_darknet(network, file)
    return network.eval(), classes


def load_darknet_backbone(backbone: CSPDarknet53, file: Path) -> None:
    """Fill a backbone from a Darknet file of YOLOv4, the whole or its first layers (`yolov4.conv.137`).

    Raises:
        WeightsError: not readable, or fewer values than the backbone takes.
    """
    _, values = _read(file)
    pairs = list(_of_backbone(backbone))
    wanted = sum(_count(*pair) for pair in pairs)
    if len(values) < wanted:
        raise WeightsError(f'{file} holds {len(values)} values, CSPDarknet53 takes {wanted}')
    _fill(pairs, values)


def coco_names() -> tuple[str, ...]:
    """The names of COCO's 80 classes, as Ultralytics writes them."""
    import ultralytics
    import yaml

    file = Path(ultralytics.__file__).parent / 'cfg/datasets/coco.yaml'
    return tuple(yaml.safe_load(file.read_text(encoding='utf-8'))['names'].values())


def _on_meta(classes: int) -> YOLOv4:
    with torch.device('meta'):
        return YOLOv4(classes)


def _fill(convolutions: list[Pair], values: np.ndarray) -> None:
    position = 0
    with torch.no_grad():
        for convolution, norm in convolutions:
            for place in _places(convolution, norm):
                part = values[position : position + place.numel()]
                place.copy_(torch.from_numpy(part).reshape(place.shape))
                position += place.numel()


def _read(file: Path) -> tuple[int, np.ndarray]:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise WeightsError(f'{file} is larger than any YOLOv4, {MAX_BYTES} bytes')
        content = file.read_bytes()
    except OSError as error:
        raise WeightsError(f'{file} cannot be read: {error.strerror}') from error
    if len(content) < 20:
        raise WeightsError(f'{file} is too short for Darknet weights')
    major, minor = np.frombuffer(content, '<i4', 2)
    wide = major * 10 + minor >= 2
    header = 20 if wide else 16
    seen = int(np.frombuffer(content, '<i8' if wide else '<i4', 1, 12)[0])
    if (len(content) - header) % 4:
        raise WeightsError(f'{file} is truncated')
    values = np.frombuffer(content, '<f4', offset=header).copy()
    if not np.isfinite(values).all():
        raise WeightsError(f'{file} holds values that are not finite; copy it again')
    return seen, values


def _places(convolution: nn.Conv2d, norm: nn.BatchNorm2d | None) -> list[torch.Tensor]:
    if norm is None:
        assert convolution.bias is not None
        return [convolution.bias, convolution.weight]
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return [norm.bias, norm.weight, norm.running_mean, norm.running_var, convolution.weight]


def _count(convolution: nn.Conv2d, norm: nn.BatchNorm2d | None) -> int:
    return sum(place.numel() for place in _places(convolution, norm))


def _in_order(network: YOLOv4) -> Iterator[Pair]:
    """The convolutions as yolov4.cfg lists them."""
    backbone, neck = network.backbone, network.neck
    assert isinstance(backbone, CSPDarknet53)
    yield from _of_backbone(backbone)
    for part in (
        *(neck.before_pooling, neck.behind_pooling),
        *(neck.coarse_to_middle, neck.middle_lateral, neck.middle_up),
        *(neck.middle_to_fine, neck.fine_lateral, neck.fine_up, network.heads[0]),
        *(neck.fine_to_middle, neck.middle_down, network.heads[1]),
        *(neck.middle_to_coarse, neck.coarse_down, network.heads[2]),
    ):
        yield from _pairs(part)


def _of_backbone(backbone: CSPDarknet53) -> Iterator[Pair]:
    yield from _pairs(backbone.stem)
    for stage in backbone.stages:
        assert isinstance(stage, CrossStage)
        parts: tuple[nn.Module, ...] = (stage.down, stage.beside, stage.before, stage.blocks, stage.behind, stage.merge)
        for part in parts:
            yield from _pairs(part)


def _pairs(part: nn.Module) -> Iterator[Pair]:
    """The convolutions in a part, each with its batch norm."""
    if isinstance(part, ConvBN):
        convolution, norm = part[0], part[1]
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        yield convolution, norm
    elif isinstance(part, nn.Conv2d):
        yield part, None
    else:
        for child in part.children():
            yield from _pairs(child)
