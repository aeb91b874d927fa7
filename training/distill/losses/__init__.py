"""The zoo of distillation losses, one family a file, and the registry that names them.

`make('cwd', temperature=4)` builds a loss by its name in a recipe; `make_levels` one for each feature level.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from training.distill.adapters import IndexMatched, make_adapter
from training.distill.losses.attention import AT
from training.distill.losses.base import DistillationLoss, Usual
from training.distill.losses.boundary import AB
from training.distill.losses.channel_wise import CWD
from training.distill.losses.contrastive import CRD
from training.distill.losses.detector_scores import BCKD, BinaryKD, CrossKD
from training.distill.losses.factor import FT
from training.distill.losses.flow import FSP
from training.distill.losses.focal_global import FGD
from training.distill.losses.hint import FitNet
from training.distill.losses.imitation import FGFI
from training.distill.losses.levels import OnLevels
from training.distill.losses.localisation import LD
from training.distill.losses.logits import DKD, KD
from training.distill.losses.masked import MGD
from training.distill.losses.pearson import DIST, PKD
from training.distill.losses.queries import QueryTargets
from training.distill.losses.relation import CC, PKT, RKD, SP
from training.distill.losses.selectivity import NST
from training.distill.losses.variational import VID
from training.errors import LossError
from training.schema import nearest

__all__ = ['LOSSES', 'DistillationLoss', 'OnLevels', 'Usual', 'loss_class', 'make', 'make_levels']

LOSSES: Mapping[str, type[DistillationLoss]] = MappingProxyType(
    {
        'ab': AB,
        'at': AT,
        'bckd': BCKD,
        'binary_kd': BinaryKD,
        'cc': CC,
        'crd': CRD,
        'crosskd': CrossKD,
        'cwd': CWD,
        'dist': DIST,
        'dkd': DKD,
        'fgd': FGD,
        'fgfi': FGFI,
        'fitnet': FitNet,
        'fsp': FSP,
        'ft': FT,
        'kd': KD,
        'ld': LD,
        'mgd': MGD,
        'nst': NST,
        'pkd': PKD,
        'pkt': PKT,
        'query_targets': QueryTargets,
        'rkd': RKD,
        'sp': SP,
        'vid': VID,
    }
)
"""Every loss by its name in a recipe."""


def loss_class(name: str) -> type[DistillationLoss]:
    """The loss of that name.

    Raises:
        LossError: no such loss; the nearest name is offered.
    """
    if name not in LOSSES:
        raise LossError(f'there is no loss {name!r}{nearest(name, LOSSES)}; losses are {", ".join(LOSSES)}')
    return LOSSES[name]


def make(name: str, **settings: Any) -> DistillationLoss:
    """Build a loss.

    Args:
        name: a key of LOSSES.
        settings: of its constructor.

    Raises:
        LossError: no such loss or setting (the nearest name is offered), a setting is missing or out of its range.

    Example:
        >>> make('kd', temperature=2).temperature
        2
    """
    kind = loss_class(name)
    parameters = inspect.signature(kind).parameters
    for setting in settings:
        if setting not in parameters:
            known = ', '.join(parameters) or 'none'
            raise LossError(f'{name} has no setting {setting!r}{nearest(setting, parameters)}; settings are {known}')
    missing = [key for key, value in parameters.items() if value.default is value.empty and key not in settings]
    if missing:
        raise LossError(f'{name} needs the setting {", ".join(missing)}')
    return kind(**settings)


def make_levels(
    name: str,
    student_channels: Sequence[int],
    teacher_channels: Sequence[int],
    *,
    adapter: str = 'identity',
    kept: Sequence[Sequence[int]] | None = None,
    level_weights: Sequence[float] | None = None,
    level_settings: Sequence[Mapping[str, Any]] | None = None,
    **settings: Any,
) -> OnLevels:
    """Build one loss of maps for each feature level, with what brings the channels together.

    A loss that has a regressor of its own (its constructor takes the channels) gets no adapter besides.

    Args:
        name: a key of LOSSES whose class takes a map.
        student_channels: of each level.
        teacher_channels: of each level.
        adapter: a kind of `make_adapter` for losses without a regressor; for FitNet, its regressor.
        kept: for a student pruned from the teacher, on each level the teacher's channels that it kept; no adapter then.
        level_weights: factor of each level; None weighs all by 1.
        level_settings: what differs from `settings` on each level, `[{'temperature': 2}, {}, {}]`.
        settings: of the loss on every level.

    Raises:
        LossError: as `make`; the loss does not take a map; lists of different length; channels that do not fit.

    Example:
        >>> loss = make_levels('cwd', (32, 64), (64, 128), adapter='conv')
        >>> sum(parameter.numel() for parameter in loss.parameters())
        10432
    """
    kind = loss_class(name)
    if kind.takes != 'map':
        raise LossError(f'{name} takes {kind.takes}, not one map of each level: build it with make')
    per_level = [teacher_channels, *(given for given in (kept, level_weights, level_settings) if given is not None)]
    if any(len(given) != len(student_channels) for given in per_level):
        raise LossError(f'the student has {len(student_channels)} levels: give as many of all that goes by level')
    matched = None if kept is None else [IndexMatched(of_level) for of_level in kept]
    if kept is not None:
        teacher_channels = [len(of_level) for of_level in kept]
    channels = list(zip(student_channels, teacher_channels, strict=True))
    each = [{**settings, **of_level} for of_level in level_settings or [{}] * len(channels)]

    parameters = inspect.signature(kind).parameters
    if 'student_channels' not in parameters or (kept is not None and 'adapter' in parameters):
        losses = [make(name, **of_level) for of_level in each]
        adapters = [make_adapter('identity' if kept is not None else adapter, *pair) for pair in channels]
        return OnLevels(losses, adapters, matched, level_weights)
    if 'adapter' in parameters and adapter != 'identity':
        each = [{'adapter': adapter, **of_level} for of_level in each]
    losses = [
        make(name, student_channels=student, teacher_channels=teacher, **of_level)
        for (student, teacher), of_level in zip(channels, each, strict=True)
    ]
    return OnLevels(losses, matched=matched, weights=level_weights)
