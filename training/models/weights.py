"""Weights files: plain tensors and the architecture beside them, so that any network, a pruned one too, reloads by itself.

Ultralytics' own .pt files and Darknet's .weights of YOLOv4 are read, too. Nothing in a file is run, and what it holds is checked
before it is used.
"""

from __future__ import annotations

import contextlib
import itertools
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.serialization import get_unsafe_globals_in_checkpoint

from training.errors import PruneError, WeightsError
from training.models import structure
from training.models.architecture import (
    build_network,
    checked_architecture,
    checked_classes,
    of_ultralytics,
)

if TYPE_CHECKING:
    from ultralytics.nn.tasks import DetectionModel

__all__ = ['build_network', 'load_network', 'load_state', 'read_kept', 'save_weights']

LARGEST_FILE = 2_000_000_000
FORMAT = 2
"""2: the architecture is a mapping and the channel structure is beside it. Files before it name a yaml of Ultralytics."""


def save_weights(network: nn.Module, file: Path, classes: Sequence[str]) -> None:
    """Write a network as plain tensors and values, which load without running code.

    Args:
        network: a detector of `build_network`, pruned or not.
        file: written whole or not at all.

    Raises:
        WeightsError: the network carries no architecture, or the file cannot be written.
    """
    architecture = getattr(network, 'yaml', None)
    if not isinstance(architecture, Mapping):
        raise WeightsError(
            f'a {type(network).__name__} carries no architecture; only networks of build_network are saved'
        )
    saved = {
        'format': FORMAT,
        'architecture': checked_architecture(architecture),
        'structure': structure.describe(network),
        'kept': getattr(network, 'kept', None),
        'classes': list(checked_classes(classes)),
        'state': {name: _plain(value) for name, value in network.state_dict().items()},
    }
    part = file.with_name(file.name + '.part')
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(saved, part)
        part.replace(file)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise WeightsError(f'{file} cannot be written: {error}; is the disk full?') from error


def _plain(value: torch.Tensor) -> torch.Tensor:
    value = value.detach().cpu()
    return (value.float() if value.is_floating_point() else value).contiguous().clone()


def load_network(file: Path) -> tuple[DetectionModel, tuple[str, ...]]:
    """The network of a weights file in float32 and evaluation mode, and its classes.

    Raises:
        WeightsError: not a file of `save_weights`, of Ultralytics or of Darknet, or the tensors do not fit the architecture.
    """
    if file.suffix == '.weights':
        from training.models.yolov4.darknet_weights import darknet_network

        return darknet_network(file)
    saved = _read(file)
    try:
        classes = checked_classes(saved['classes'])
        architecture = saved['architecture']
        if isinstance(architecture, str):
            architecture = of_ultralytics(architecture)
        network = build_network(architecture, classes)
        if saved.get('structure') is not None:
            structure.restore(network, saved['structure'])
        kept = _checked_kept(saved.get('kept'))
    except (WeightsError, PruneError, AttributeError, TypeError) as error:
        raise WeightsError(f'{file}: {error}') from error
    if kept is not None:
        network.kept = kept
    _fill(network, saved['state'], file)
    return network.eval(), classes


def load_state(network: nn.Module, file: Path) -> None:
    """Fill a network that is built already from a weights file; every tensor must fit.

    Raises:
        WeightsError: as `load_network`.
    """
    _fill(network, _read(file)['state'], file)


def read_kept(file: Path) -> list[list[int]] | None:
    """For each level that the head reads, the channels of the unpruned network that a pruned one kept; None: not pruned.

    Files of Ultralytics and Darknet say nothing of it.

    Raises:
        WeightsError: as `load_network`.
    """
    return None if file.suffix == '.weights' else _checked_kept(_read(file).get('kept'))


def _read(file: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > LARGEST_FILE:
            raise WeightsError(f'{file} holds {size / 1e9:.1f} GB, more than {LARGEST_FILE / 1e9:g} GB')
        saved = _load(file)
    except FileNotFoundError as error:
        raise WeightsError(f'{file} does not exist') from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise WeightsError(f'{file} cannot be read as a weights file: {error}') from error
    if not isinstance(saved, dict) or not {'architecture', 'classes', 'state'} <= saved.keys():
        raise WeightsError(f'{file} is not a weights file of this toolkit: it lacks architecture, classes or state')
    if saved.get('format', 1) not in (1, FORMAT):
        raise WeightsError(f'{file} has format {saved["format"]!r}; this version reads up to {FORMAT}')
    return saved


def _load(file: Path) -> Any:
    """What the file holds; a pickle of objects is Ultralytics' or nothing that is read here."""
    if get_unsafe_globals_in_checkpoint(str(file)):
        from training.models.ultralytics_files import read_ultralytics

        return read_ultralytics(file)
    return torch.load(file, map_location='cpu', weights_only=True)


def _fill(network: nn.Module, state: Any, file: Path) -> None:
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(f'{file} must hold its tensors by name under "state"')
    for name, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise WeightsError(f'{file}: {name} holds values that are not finite; take an earlier checkpoint')
    try:
        network.load_state_dict(state, strict=True)
    except (RuntimeError, AttributeError) as error:
        raise WeightsError(f'{file} does not fit the network: {_shortened(error)}') from error


def _shortened(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    return ' '.join(lines[1:3])[:300] or lines[0]


def _checked_kept(kept: Any) -> list[list[int]] | None:
    if kept is None:
        return None
    for level in kept if isinstance(kept, list) else [None]:
        if not isinstance(level, list) or not level or not all(type(item) is int and item >= 0 for item in level):
            raise WeightsError('the kept channels must be a list of channel numbers for each level of the head')
        if any(first >= second for first, second in itertools.pairwise(level)):
            raise WeightsError('the kept channels of a level must be in rising order')
    return list(kept)
