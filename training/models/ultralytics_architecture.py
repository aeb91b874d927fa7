"""Architectures of Ultralytics' detectors: by name, from a yaml or from a file's mapping, checked before they are built.

Ultralytics evaluates parts of an architecture as code and allocates whatever it asks for, so what it may hold is listed here.
"""

from __future__ import annotations

import copy
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault('YOLO_OFFLINE', '1')
os.environ.setdefault('YOLO_AUTOINSTALL', '0')

import torch
import yaml

from training import torchvision_nms
from training.errors import WeightsError
from training.schema import nearest

torchvision_nms.ensure()

import ultralytics  # noqa: E402
from ultralytics.nn.tasks import (  # noqa: E402
    DetectionModel,
    RTDETRDetectionModel,
    parse_model,
    yaml_model_load,
)
from ultralytics.utils import SETTINGS  # noqa: E402

SETTINGS['sync'] = False

MOST_PARAMETERS = 500_000_000
MOST_LAYERS = 500
LARGEST_ARGUMENT = 4096
LAYERS = frozenset(
    (
        *(
            'A2C2f',
            'AConv',
            'ADown',
            'AIFI',
            'Bottleneck',
            'BottleneckCSP',
            'C1',
            'C2',
            'C2f',
            'C2fCIB',
            'C2fPSA',
            'C2PSA',
        ),
        *(
            'C3',
            'C3Ghost',
            'C3k2',
            'C3TR',
            'C3x',
            'CBFuse',
            'CBLinear',
            'Concat',
            'Conv',
            'Conv2',
            'ConvTranspose',
            'Detect',
        ),
        *(
            'DWConv',
            'ELAN1',
            'Focus',
            'GhostBottleneck',
            'GhostConv',
            'HGBlock',
            'HGStem',
            'Index',
            'LightConv',
            'PSA',
            'RepC3',
        ),
        *('RepConv', 'RepNCSPELAN4', 'ResNetLayer', 'RTDETRDecoder', 'SCDown', 'SPP', 'SPPELAN', 'SPPF', 'v10Detect'),
        *(
            'nn.BatchNorm2d',
            'nn.Conv2d',
            'nn.ConvTranspose2d',
            'nn.Identity',
            'nn.MaxPool2d',
            'nn.Upsample',
            'nn.ZeroPad2d',
        ),
    )
)
"""The layers of Ultralytics that an architecture may name; the others of its files load weights or are no part of a detector."""
_ACTIVATION = re.compile(
    r'(torch\.)?nn\.(SiLU|ReLU|ReLU6|Hardswish|Mish|GELU|Identity|LeakyReLU)\((inplace=True|0\.\d+)?\)'
)
_TEXT = re.compile(r'[A-Za-z_]\w*|-?\d+(\.\d+)?')


def build(architecture: Any, classes: tuple[str, ...]) -> DetectionModel:
    """A detector with fresh weights of a mapping. Raises WeightsError as `checked`, and where it cannot be built."""
    architecture = checked(architecture)
    architecture['nc'] = len(classes)
    kind = RTDETRDetectionModel if _layer_of(architecture['head'][-1]) == 'RTDETRDecoder' else DetectionModel
    try:
        count = _count_parameters(architecture)
        if count > MOST_PARAMETERS:
            raise WeightsError(f'the architecture has {count} parameters, more than {MOST_PARAMETERS}')
        network = kind(architecture, nc=len(classes), verbose=False)  # type: ignore[no-untyped-call]
    except WeightsError:
        raise
    except Exception as error:  # Ultralytics' reader raises whatever the entry at fault happens to cause
        raise WeightsError(f'the architecture cannot be built: {type(error).__name__}: {error}') from error
    network.names = dict(enumerate(classes))
    return network


def _count_parameters(architecture: Mapping[str, Any]) -> int:
    """Without memory for them, so that no file can ask for more than there is."""
    with torch.device('meta'):
        layers, _ = parse_model(copy.deepcopy(dict(architecture)), ch=3, verbose=False)  # type: ignore[no-untyped-call]
    return sum(parameter.numel() for parameter in layers.parameters())


def of_ultralytics(name: str) -> Mapping[str, Any]:
    """An architecture that Ultralytics brings along.

    Raises:
        WeightsError: there is none of that name; the nearest is offered.
    """
    folder = Path(ultralytics.__file__).parent / 'cfg' / 'models'
    known = {f'{stem}{suffix}' for file in folder.rglob('*.yaml') for stem, suffix in _sizes(file.name)}
    if name not in known and not (name.startswith('yolov5') and name.replace('u.yaml', '.yaml') in known):
        raise WeightsError(
            f'no file and no architecture of Ultralytics is named {name!r}{nearest(name, sorted(known))}'
        )
    return read_yaml(Path(name.replace('u.yaml', '.yaml') if name.startswith('yolov5') else name))


def _sizes(name: str) -> list[tuple[str, str]]:
    """(`yolov8`, `-p2.yaml`) of `yolov8-p2.yaml`, and with each size letter in between."""
    match = re.fullmatch(r'(yolo(?:e-)?v?\d+)((?:-.*)?\.yaml)', name)
    if match is None:
        return [(name, '')]
    return [(match[1] + size, match[2]) for size in ('', *'nsmlx')]


def read_yaml(path: Path) -> Mapping[str, Any]:
    """An architecture of a file; a size letter in its name chooses the scale. Raises WeightsError where it is none."""
    try:
        mapping = yaml_model_load(path)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise WeightsError(f'{path} cannot be read as an architecture: {error}') from error
    if not isinstance(mapping, Mapping):
        raise WeightsError(f'{path} must hold an architecture: nc, backbone, head')
    return mapping


def checked(architecture: Any) -> dict[str, Any]:
    """A copy of an architecture that holds nothing but what is known to be harmless.

    Raises:
        WeightsError: an entry of another form.
    """
    if not isinstance(architecture, Mapping) or not {'backbone', 'head'} <= architecture.keys():
        raise WeightsError('an architecture must hold nc, backbone and head')
    found = {str(key): copy.deepcopy(value) for key, value in architecture.items() if key != 'yaml_file'}
    activation = found.get('activation')
    if activation is not None and not (isinstance(activation, str) and _ACTIVATION.fullmatch(activation)):
        raise WeightsError(f'the activation must be like nn.SiLU() or nn.ReLU(), not {activation!r}')
    for key in ('backbone', 'head'):
        rows = found[key]
        if not isinstance(rows, list) or not 0 < len(rows) <= MOST_LAYERS:
            raise WeightsError(f'{key} must be a list of 1 to {MOST_LAYERS} layers')
        for number, row in enumerate(rows):
            _check_layer(row, f'{key}[{number}]')
    _check_scales(found)
    if found.get('scales') and not found.get('scale'):
        found['scale'] = next(iter(found['scales']))
    return found


def _check_layer(row: Any, where: str) -> None:
    if not isinstance(row, (list, tuple)) or len(row) != 4 or not isinstance(row[3], list):
        raise WeightsError(f'{where} must be [from, repeats, layer, [arguments]], not {row!r}')
    source, repeats, layer, arguments = row
    sources = source if isinstance(source, list) else [source]
    if not sources or not all(type(item) is int and abs(item) <= MOST_LAYERS for item in sources):
        raise WeightsError(f'{where} must take its input from layers by number, not {source!r}')
    if type(repeats) is not int or not 1 <= repeats <= 100:
        raise WeightsError(f'{where} must be repeated 1 to 100 times, not {repeats!r}')
    if layer not in LAYERS:
        raise WeightsError(f'{where} names the layer {layer!r}{nearest(str(layer), sorted(LAYERS))}')
    if layer == 'nn.Upsample' and not all(item in (None, 'None', 2, 4, 'nearest', 'bilinear') for item in arguments):
        raise WeightsError(f'{where}: nn.Upsample takes [None, 2 or 4, nearest or bilinear], not {arguments!r}')
    if len(arguments) > 30 or not all(_is_harmless(item) for item in arguments):
        raise WeightsError(f'{where} has arguments that no layer takes: {str(arguments)[:100]}')


def _is_harmless(value: Any) -> bool:
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, (int, float)):
        return math.isfinite(value) and abs(value) <= LARGEST_ARGUMENT
    if isinstance(value, str):
        return len(value) <= 30 and _TEXT.fullmatch(value) is not None
    return isinstance(value, (list, tuple)) and len(value) <= 100 and all(_is_harmless(item) for item in value)


def _check_scales(architecture: Mapping[str, Any]) -> None:
    for key in ('depth_multiple', 'width_multiple', 'reg_max'):
        value = architecture.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 100:
            raise WeightsError(f'{key} must be a number over 0 and at most 100, not {value!r}')
    scales = architecture.get('scales')
    if scales is None:
        return
    if not isinstance(scales, Mapping) or not all(_is_scale(scale) for scale in scales.values()):
        raise WeightsError('scales must hold [depth, width, largest number of channels] by size letter')
    if architecture.get('scale') and architecture['scale'] not in scales:
        raise WeightsError(f'the size {architecture["scale"]!r} is not among {", ".join(map(str, scales))}')


def _is_scale(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and all(isinstance(item, (int, float)) and 0 < item <= LARGEST_ARGUMENT for item in value)
        and value[0] <= 10
        and value[1] <= 10
    )


def _layer_of(row: Sequence[Any]) -> str:
    return str(row[2])
