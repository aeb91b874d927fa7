"""Ultralytics' own .pt files → architecture, classes and tensors, without running anything that the file names.

Such a file is a pickle of live objects. Here every class that it names is replaced by an inert one, which keeps attributes and
does nothing; torch's reader for weights alone, which knows no other code, makes the tensors.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from training.errors import WeightsError

MOST_NAMES = 1000
"""Classes that a file may name; a large network of Ultralytics' names about forty."""
DEEPEST = 60
"""Modules within modules."""


class _Inert:
    """Stands for an object of a class that is not loaded: its attributes, and nothing that it could do."""

    called = ''

    def __init__(self, *_: object, **__: object) -> None:
        """Take whatever the real class would."""

    def __setstate__(self, state: object) -> None:
        if isinstance(state, Mapping):
            self.__dict__.update(state)


def read_ultralytics(file: Path) -> dict[str, Any]:
    """What a detector's .pt of Ultralytics holds, in the form of our own weights files.

    Returns:
        `architecture`, `classes` and `state`, not checked yet.

    Raises:
        WeightsError: no such file, or no detector in it.
    """
    try:
        names = get_unsafe_globals_in_checkpoint(str(file))
        if len(names) > MOST_NAMES:
            raise WeightsError(f'{file} names {len(names)} classes: that is no detector')
        # An inert class for each name, so that what is read never meets the real one.
        kinds: list[Any] = [(type('Inert', (_Inert,), {'called': name}), name) for name in names]
        with safe_globals(kinds):
            content = torch.load(file, map_location='cpu', weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        raise WeightsError(f'{file} is neither a weights file of this toolkit nor of Ultralytics') from error
    return _of_model(_model_in(content, file), file)


def _model_in(content: Any, file: Path) -> _Inert:
    """The averaged network where there is one, as Ultralytics itself chooses."""
    candidates = [content.get('ema'), content.get('model')] if isinstance(content, Mapping) else [content]
    for candidate in candidates:
        if isinstance(candidate, _Inert) and isinstance(getattr(candidate, '_modules', None), Mapping):
            return candidate
    raise WeightsError(f'{file} holds no network of Ultralytics: it lacks "model"')


def _of_model(model: _Inert, file: Path) -> dict[str, Any]:
    if model.called.startswith('models.'):
        raise WeightsError(
            f'{file} is of the original YOLOv5 or YOLOv7 repository, whose anchor heads are other networks: '
            'take the same size from Ultralytics (yolov5nu.pt …), or start from its .yaml'
        )
    architecture, names = getattr(model, 'yaml', None), getattr(model, 'names', None)
    if not isinstance(architecture, Mapping) or not isinstance(names, (Mapping, list)):
        raise WeightsError(f'{file}: its {model.called} carries no architecture or no class names')
    classes = [names[key] for key in sorted(names)] if isinstance(names, Mapping) else names
    kept = (
        'backbone',
        'head',
        'scales',
        'scale',
        'activation',
        'depth_multiple',
        'width_multiple',
        'end2end',
        'reg_max',
    )
    return {
        'architecture': {'nc': len(classes), **{name: architecture[name] for name in kept if name in architecture}},
        'classes': [str(name) for name in classes],
        'state': dict(_tensors(model, '', 0)),
    }


def _tensors(module: Any, prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    """A module's parameters and buffers by name, as `state_dict` gives them."""
    if depth > DEEPEST or not isinstance(module, _Inert):
        return
    passing = getattr(module, '_non_persistent_buffers_set', ())
    for kind in ('_parameters', '_buffers'):
        for name, value in (getattr(module, kind, None) or {}).items():
            if isinstance(value, Tensor) and name not in passing:
                yield prefix + str(name), value.detach()
    for name, child in (getattr(module, '_modules', None) or {}).items():
        yield from _tensors(child, f'{prefix}{name}.', depth + 1)
