"""What all losses share: how each describes itself, and the checked pair of student and teacher.

Of the pair, the teacher is detached here, once for all losses, and half precision becomes float32.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from training.errors import LossError

_logger = logging.getLogger(__name__)
Takes = Literal[
    'logits',  # (N, classes)
    'logits, labels',  # (N, classes) and the true class of each row
    'vectors',  # (N, D), or maps, which are flattened
    'vectors, indices',  # (N, D) and each sample's place in the training set
    'map',  # one (N, C, H, W); over several levels by OnLevels
    'maps',  # a sequence of (N, C, H, W)
    'maps, boxes',  # a sequence of (N, C, H, W) and the true boxes of each image
    'class scores',  # a detector's class logits (N, classes, anchors)
    'cross head',  # the same of the student's features in the teacher's head
    'box distributions',  # a detector's box bins (N, 4·bins, anchors)
    'queries',  # a dense head's class logits (N, classes, anchors) and boxes, and those of a set of queries
]


@dataclass(frozen=True)
class Usual:
    """How a method's authors weigh and schedule it; the trainer applies this, never the loss itself.

    Attributes:
        weight: factor of the loss beside the task's loss.
        start_step: optimizer steps before it sets in.
        ramp_epochs: epochs over which the weight rises linearly from 0.
        initialization_only: used alone, before the student is trained for its task.
    """

    weight: float
    start_step: int = 0
    ramp_epochs: int = 0
    initialization_only: bool = False


class DistillationLoss(nn.Module):
    """Base of all losses: `loss(student, teacher, …)` is a scalar, not yet multiplied by the method's weight.

    No gradient reaches the teacher. Parameters of a loss (adapters, heads) are to be trained with the student.

    Attributes:
        paper: where the method was published.
        takes: what student and teacher are.
        usual: the authors' weight and schedule.
        of_places: whether it compares the places of a map with each other, so that a map of one cell teaches nothing.
        revision: raised when what the loss computes changes, so that what was trained with it before is not taken for new.
    """

    revision: ClassVar[int] = 0
    of_places: ClassVar[bool] = False
    paper: ClassVar[str]
    takes: ClassVar[Takes]
    usual: ClassVar[Usual]

    def __init__(self) -> None:
        super().__init__()


def paired(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Student and detached teacher of one shape, in float32 or better.

    Raises:
        LossError: the shapes differ.
    """
    if student.shape != teacher.shape:
        raise LossError(
            f'the student is {tuple(student.shape)} and the teacher {tuple(teacher.shape)}: this loss compares equal '
            'shapes; choose an adapter for the channels and levels of one stride'
        )
    return widened(student), widened(teacher.detach())


def paired_samples(student: Tensor, teacher: Tensor, *, least: int = 1) -> tuple[Tensor, Tensor]:
    """Flattened samples (N, D) of the student and the detached teacher; D may differ.

    Raises:
        LossError: the batches differ, or there are fewer than `least` samples.
    """
    if len(student) != len(teacher) or len(student) < least:
        raise LossError(
            f'the student has a batch of {len(student)} and the teacher of {len(teacher)}: they must be equal, and '
            f'at least {least}'
        )
    return widened(student).flatten(1), widened(teacher.detach()).flatten(1)


def check_places(name: str, kind: type[DistillationLoss], cells: Mapping[str, int]) -> None:
    """Say of which maps a loss learns nothing because they have one cell.

    Args:
        name: of the loss in logs.
        cells: of each map, by its name.

    Raises:
        LossError: all maps have one cell.
    """
    alone = [layer for layer, count in cells.items() if count == 1]
    if not kind.of_places or not alone:
        return
    cure = 'give larger images, or layers of a finer stride'
    if len(alone) == len(cells):
        raise LossError(f'{name} compares the places of a map, but every map has one cell: {cure}')
    _logger.warning('%s learns nothing of %s, whose map has one cell: %s', name, ', '.join(alone), cure)


def paired_maps(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Maps on one grid of the student and the detached teacher: the finer one is averaged onto the coarser.

    Raises:
        LossError: not maps, or the batches differ.
    """
    if student.ndim != 4 or teacher.ndim != 4 or len(student) != len(teacher):
        raise LossError(
            f'the student is {tuple(student.shape)} and the teacher {tuple(teacher.shape)}: this loss compares maps '
            '(N, C, H, W) of one batch'
        )
    return on_one_grid(widened(student), widened(teacher.detach()))


def on_one_grid(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps (N, C, H, W), the finer one averaged onto the coarser one's grid."""
    grid = (min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3]))
    return _averaged(a, grid), _averaged(b, grid)


def _averaged(feature: Tensor, grid: tuple[int, int]) -> Tensor:
    return feature if feature.shape[2:] == grid else F.adaptive_avg_pool2d(feature, grid)


def widened(value: Tensor) -> Tensor:
    """float16 and bfloat16 as float32; sums of squares and exponentials do not fit into them."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def positive(**settings: float) -> None:
    """Refuse settings that are not above zero.

    Raises:
        LossError: naming the setting.
    """
    for name, value in settings.items():
        if not value > 0:
            raise LossError(f'{name} must be above 0, not {value}')


def softened_divergence(student: Tensor, teacher: Tensor, temperature: float, dim: int) -> Tensor:
    """The summands of T²·KL(softmax(t/T) ‖ softmax(s/T)) along `dim`.

    T² keeps the gradient's size when T changes.
    """
    wanted = F.log_softmax(teacher / temperature, dim)
    found = F.log_softmax(student / temperature, dim)
    return F.kl_div(found, wanted, reduction='none', log_target=True) * temperature**2
