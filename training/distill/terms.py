"""Distillation terms: each loss joined to what it compares of two detectors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.distill.cross_head import CrossHead
from training.distill.losses import loss_class, make, make_levels
from training.distill.losses.base import check_places
from training.distill.losses.queries import Cells
from training.distill.outputs import QUERIES, Branch, Outputs, Shape, cell_centers, decode
from training.distill.settings import BASELINE, TermSettings
from training.errors import LossError

Boxes = Sequence[Tensor]
"""Of each image (K, 4), x1, y1, x2, y2 in pixels."""
Compare = Callable[[Outputs, Outputs, Boxes], Tensor]
_NO_SELF: Any = None  # Ultralytics' loss is a method that does not use its object


class Term(nn.Module):
    """One loss of a run.

    Attributes:
        name: in logs.
        settings: what it was made from.
        needs_boxes: whether it says nothing about unlabelled images.
        of_objects: whether it says nothing where there is no object.
        needs_head: whether it compares what the heads put out, not maps alone.
    """

    def __init__(
        self,
        name: str,
        settings: TermSettings,
        loss: nn.Module,
        compare: Compare,
        *,
        needs_boxes: bool,
        of_objects: bool,
        needs_head: bool,
    ) -> None:
        super().__init__()
        self.name = name
        self.settings = settings
        self.loss = loss
        self.needs_boxes = needs_boxes
        self.of_objects = of_objects
        self.needs_head = needs_head
        self._compare = compare

    def forward(self, student: Outputs, teacher: Outputs, boxes: Boxes) -> Tensor:
        """The loss, not weighted."""
        return self._compare(student, teacher, boxes)


def make_term(
    name: str,
    settings: TermSettings,
    student: Shape,
    teacher: Shape,
    layers: tuple[Sequence[str], Sequence[str]],
    kept: Sequence[Sequence[int]] | None,
    head: Any = None,
) -> Term:
    """Build a term.

    Args:
        name: in logs and errors.
        settings: see TermSettings.
        student: what the student looks like.
        teacher: what the teacher looks like.
        layers: names of the layers that are compared, of the student and of the teacher.
        kept: for each level, the teacher's channels that a pruned student kept.
        head: the teacher's, where it is a YOLO's.

    Raises:
        LossError: the loss cannot be used on these detectors.
    """
    takes = 'baseline' if settings.loss == BASELINE else loss_class(settings.loss).takes
    if settings.on == 'scores' and takes != 'map':
        raise LossError(f'{name}: on: scores is for losses of maps, {settings.loss} takes {takes}')
    on_scores = settings.on == 'scores' or takes in ('class scores', 'box distributions')
    needs_head = on_scores or takes in ('baseline', 'queries', 'cross head')
    if takes == 'queries':
        _check_queries(name, student, teacher)
    elif needs_head:
        _check_heads(name, student, teacher)
    if takes not in ('queries', 'cross head') and (not on_scores or settings.on == 'scores'):
        _check_grids(name, student, teacher, layers)
    if takes == 'map':
        compared = student.levels if settings.on == 'scores' else layers[0]
        cells = {layer: student.sizes[layer][0] * student.sizes[layer][1] for layer in compared}
        check_places(name, loss_class(settings.loss), cells)
    maker = _MAKERS.get(takes)
    if maker is None and takes != 'cross head':
        raise LossError(
            f'{name} takes {takes}, one row an image, which detectors do not have: bckd, binary_kd and ld compare what '
            'they put out, cwd and others their maps'
        )
    if takes == 'cross head':
        loss, compare = _of_cross_head(settings, student, teacher, layers[0], head)
    else:
        loss, compare = maker(settings, student, teacher, layers, kept)
    return Term(
        name,
        settings,
        loss,
        compare,
        needs_boxes=takes == 'maps, boxes',
        of_objects=takes in ('maps, boxes', 'queries'),
        needs_head=needs_head,
    )


Made = tuple[nn.Module, Compare]
Layers = tuple[Sequence[str], Sequence[str]]
Kept = Sequence[Sequence[int]] | None


def _check_heads(name: str, student: Shape, teacher: Shape) -> None:
    if not student.classes or not teacher.classes:
        raise LossError(
            f'{name} compares heads of YOLO; RT-DETR and YOLOv4 are distilled by their maps only, except that query_targets '
            "learns from RT-DETR's queries"
        )
    if student.strides != teacher.strides:
        raise LossError(
            f'{name}: the student predicts at strides {_listed(student.strides)}, the teacher at '
            f'{_listed(teacher.strides)}: compare maps of equal layers instead (student_layers, teacher_layers)'
        )


def _check_queries(name: str, student: Shape, teacher: Shape) -> None:
    if not student.bins:
        raise LossError(f'{name} teaches the head of a YOLO: RT-DETR and YOLOv4 are distilled by their maps only')
    if not {QUERIES, 'one2one'} & set(teacher.branches):
        raise LossError(
            f'{name} needs a teacher that predicts each object once, like RT-DETR and YOLO26; others predict it at many '
            'anchors, which bckd, binary_kd and ld compare one by one'
        )


def _check_grids(name: str, student: Shape, teacher: Shape, layers: Layers) -> None:
    if len(layers[0]) != len(layers[1]):
        raise LossError(
            f'{name}: the student has {len(layers[0])} levels and the teacher {len(layers[1])}: name student_layers and '
            'teacher_layers'
        )
    for own, others in zip(*layers, strict=True):
        if student.sizes[own] != teacher.sizes[others]:
            raise LossError(
                f'{name}: the map of the student at {own} has {_listed(student.sizes[own], " × ")} cells, that of the '
                f'teacher at {others} {_listed(teacher.sizes[others], " × ")}: compare layers of one stride'
            )


def _listed(values: Sequence[float], between: str = ', ') -> str:
    return between.join(f'{value:g}' for value in values)


def _channels(student: Shape, teacher: Shape, layers: Layers) -> tuple[list[int], list[int]]:
    return [student.channels[name] for name in layers[0]], [teacher.channels[name] for name in layers[1]]


def _of_maps(settings: TermSettings, student: Shape, teacher: Shape, layers: Layers, kept: Kept) -> Made:
    if settings.on == 'scores':
        count = len(student.levels)
        classes = [student.classes] * count
        loss = _levels(settings, classes, [teacher.classes] * count, 'identity', None)
        sizes = [student.sizes[level] for level in student.levels]
        return loss, lambda s, t, _: _over_branches(
            s, t, lambda own, others: loss(_as_maps(own['scores'], sizes), _as_maps(others['scores'], sizes))
        )
    own, others = _channels(student, teacher, layers)
    adapter = settings.adapter
    matched = kept if adapter == 'auto' and not settings.student_layers else None
    if matched is not None and [len(level) for level in matched] != own:
        raise LossError(
            f'{settings.loss}: {[len(level) for level in matched]} channels were kept, the student has {own}'
        )
    if adapter == 'auto':
        adapter = 'identity' if own == others or matched is not None else 'conv'
    loss = _levels(settings, own, others, adapter, matched)
    return loss, lambda s, t, _: loss(_maps(s, layers[0]), _maps(t, layers[1]))


def _levels(settings: TermSettings, own: list[int], others: list[int], adapter: str, kept: Kept) -> nn.Module:
    weights = settings.level_weights or None
    return make_levels(
        settings.loss, own, others, adapter=adapter, kept=kept, level_weights=weights, **settings.settings
    )


def _of_all_maps(settings: TermSettings, student: Shape, teacher: Shape, layers: Layers, kept: Kept) -> Made:
    loss = _with_channels(settings, student, teacher, layers)
    return loss, lambda s, t, _: loss(_maps(s, layers[0]), _maps(t, layers[1]))


def _near_boxes(settings: TermSettings, student: Shape, teacher: Shape, layers: Layers, kept: Kept) -> Made:
    size = student.sizes[student.levels[0]][0] * student.strides[0]
    strides = [size / student.sizes[name][0] for name in layers[0]]
    loss = _with_channels(settings, student, teacher, layers, strides=strides)
    return loss, lambda s, t, boxes: loss(_maps(s, layers[0]), _maps(t, layers[1]), boxes)


def _with_channels(
    settings: TermSettings, student: Shape, teacher: Shape, layers: Layers, **given: object
) -> nn.Module:
    own, others = _channels(student, teacher, layers)
    parameters = inspect.signature(loss_class(settings.loss)).parameters
    if 'student_channels' in parameters:
        given = {**given, 'student_channels': own, 'teacher_channels': others}
    return make(settings.loss, **{**given, **settings.settings})


def _of_vectors(settings: TermSettings, student: Shape, teacher: Shape, layers: Layers, kept: Kept) -> Made:
    own, others = layers[0][-1], layers[1][-1]
    given = dict(settings.settings)
    if 'student_features' in inspect.signature(loss_class(settings.loss)).parameters:
        given = {'student_features': student.channels[own], 'teacher_features': teacher.channels[others], **given}
    loss = make(settings.loss, **given)
    return loss, lambda s, t, _: loss(s.maps[own].mean((2, 3)), t.maps[others].mean((2, 3)))


def _of_scores(settings: TermSettings, student: Shape, teacher: Shape, layers: Layers, kept: Kept) -> Made:
    loss = make(settings.loss, **settings.settings)
    with_boxes = getattr(loss, 'box_weight', 0.0) > 0

    def compare(own: Branch, others: Branch) -> Tensor:
        boxes = (
            {
                'student_boxes': decode(own, student.bins, student.strides),
                'teacher_boxes': decode(others, teacher.bins, teacher.strides),
            }
            if with_boxes
            else {}
        )
        value: Tensor = loss(own['scores'], others['scores'], positives=certainty(others).sum(), **boxes)
        return value

    return loss, lambda s, t, _: _over_branches(s, t, compare)


def _of_cross_head(settings: TermSettings, student: Shape, teacher: Shape, layers: Sequence[str], head: Any) -> Made:
    loss = make(settings.loss, **settings.settings)
    cross = CrossHead(head, [student.channels[name] for name in layers])

    def compare(s: Outputs, t: Outputs, _: Boxes) -> Tensor:
        scores, sides = cross(_maps(s, layers))
        others = t.branches['one2many']
        own = {'boxes': sides, 'feats': s.branches['one2many']['feats']}
        value: Tensor = loss(
            scores,
            others['scores'],
            certainty(others).sum(),
            decode(own, teacher.bins, student.strides),
            decode(others, teacher.bins, teacher.strides),
        )
        return value

    return cross, compare


def _of_distributions(settings: TermSettings, student: Shape, teacher: Shape, layers: Layers, kept: Kept) -> Made:
    if student.bins != teacher.bins or student.bins < 2:
        raise LossError(
            f'{settings.loss} compares distributions of sides: the student has {student.bins} bins and the teacher '
            f'{teacher.bins} (1: none, as in YOLO26); bckd compares boxes instead'
        )
    loss = make(settings.loss, **settings.settings)
    return loss, lambda s, t, _: _over_branches(
        s, t, lambda own, others: loss(own['boxes'], others['boxes'], certainty(others))
    )


def _of_queries(settings: TermSettings, student: Shape, teacher: Shape, layers: Layers, kept: Kept) -> Made:
    loss = make(settings.loss, **settings.settings)

    def of_branch(name: str, branch: Branch, t: Outputs) -> Tensor:
        points, pixels = cell_centers(branch['feats'], student.strides)
        height, width = branch['feats'][0].shape[2:]
        size = points.new_tensor([width, height]) * student.strides[0]
        value: Tensor = loss(
            branch['scores'],
            student_boxes=decode(branch, student.bins, student.strides),
            **_said_once(t, teacher, size),
            cells=Cells(points * pixels, pixels.squeeze(1)),
            distributions=branch['boxes'] if student.bins > 1 else None,
            one_to_one=name == 'one2one',
        )
        return value

    return loss, lambda s, t, _: torch.stack([of_branch(*named, t) for named in s.branches.items()]).mean()


def _said_once(outputs: Outputs, shape: Shape, size: Tensor) -> dict[str, Tensor]:
    """A teacher's class logits and boxes in pixels, within an image of that width and height, each object predicted once."""
    corners = size.repeat(2).unsqueeze(1)
    if QUERIES in outputs.branches:
        branch = outputs.branches[QUERIES]
        boxes = branch['boxes'] * corners
    else:
        branch = outputs.branches['one2one']
        boxes = decode(branch, shape.bins, shape.strides)
    return {'teacher': branch['scores'], 'teacher_boxes': boxes.clamp(min=0).minimum(corners)}


class _Projectors(nn.ModuleList):
    """Those of Ultralytics' distillation: two 1×1 convolutions for each level."""

    def __init__(self, student: Sequence[int], teacher: Sequence[int]) -> None:
        super().__init__(
            nn.Sequential(nn.Conv2d(own, others, 1), nn.ReLU(), nn.Conv2d(others, others, 1))
            for own, others in zip(student, teacher, strict=True)
        )


def _of_ultralytics(settings: TermSettings, student: Shape, teacher: Shape, layers: Layers, kept: Kept) -> Made:
    """Ultralytics' DistillationModel: squared differences of projected maps, weighted by the teacher's best score."""
    if settings.settings or settings.level_weights:
        raise LossError(f'{BASELINE} has no settings: it is the baseline as it is')
    from ultralytics.nn.distill_model import DistillationModel

    projectors = _Projectors(*_channels(student, teacher, layers))

    def compare(s: Outputs, t: Outputs, _: Boxes) -> Tensor:
        scores = torch.stack([branch['scores'] for branch in t.branches.values()]).mean(0)
        sizes = [(value.shape[2], value.shape[3]) for value in _maps(t, layers[1])]
        best = tuple(level.sigmoid().amax(1).flatten(1).unsqueeze(1) for level in _as_maps(scores, sizes))
        pairs = zip(projectors, _maps(s, layers[0]), _maps(t, layers[1]), strict=True)
        values = [
            DistillationModel.loss_sl2(_NO_SELF, project(own).contiguous(), others.contiguous(), level, best)
            for level, (project, own, others) in enumerate(pairs)
        ]
        return torch.stack(values).sum()

    return projectors, compare


_MAKERS: dict[str, Callable[[TermSettings, Shape, Shape, Layers, Kept], Made]] = {
    'map': _of_maps,
    'maps': _of_all_maps,
    'maps, boxes': _near_boxes,
    'vectors': _of_vectors,
    'class scores': _of_scores,
    'box distributions': _of_distributions,
    'queries': _of_queries,
    'baseline': _of_ultralytics,
}


def _maps(outputs: Outputs, layers: Sequence[str]) -> list[Tensor]:
    return [outputs.maps[name] for name in layers]


def _as_maps(scores: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    parts = torch.split(scores, [height * width for height, width in sizes], dim=2)
    return [part.unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]


def _over_branches(student: Outputs, teacher: Outputs, compare: Callable[[Branch, Branch], Tensor]) -> Tensor:
    """The mean over the branches that both heads have."""
    both = [name for name in student.branches if name in teacher.branches]
    return torch.stack([compare(student.branches[name], teacher.branches[name]) for name in both]).mean()


def certainty(branch: Branch) -> Tensor:
    """The best class probability of each anchor (N, anchors); its sum stands for the number of positive anchors."""
    scores: Tensor = branch['scores']
    return scores.detach().sigmoid().amax(1)
