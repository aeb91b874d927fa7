"""Files of classifiers: plain tensors and names, read without running code; and how a detector begins with a backbone."""

from __future__ import annotations

import contextlib
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from training.errors import FitError, WeightsError
from training.models.yolov4.backbones import Classifier
from training.models.yolov4.network import YOLOv4
from training.models.yolov4.pretrained import load_backbone


def save_classifier(classifier: Classifier, backbone: str, classes: tuple[str, ...], file: Path, job: str = '') -> None:
    """Write a classifier as plain tensors and names.

    Args:
        classifier: of that backbone.
        backbone: its name.
        classes: their names.
        file: where; it is there whole or not at all.
        job: hash of the run that made it.

    Raises:
        FitError: it cannot be written.
    """
    state = {name: value.cpu().contiguous() for name, value in classifier.state_dict().items()}
    saved = {'backbone': backbone, 'classes': list(classes), 'job': job, 'state': state}
    write_file({**saved, 'small': True} if classifier.small else saved, file)


def load_classifier(file: Path) -> tuple[Classifier, tuple[str, ...]]:
    """A classifier in evaluation mode, and its classes.

    Raises:
        WeightsError: not a file of `save_classifier`.
    """
    saved = read_file(file)
    try:
        classifier = Classifier(saved['backbone'], len(saved['classes']), small=saved.get('small') is True)
        classifier.load_state_dict(saved['state'])
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f'{file} is not a classifier of this toolkit: {error}') from error
    return classifier.eval(), tuple(saved['classes'])


def take_backbone(network: YOLOv4, file: Path) -> None:
    """Let a detector begin with the backbone of a classifier, or with one that others trained on ImageNet.

    Raises:
        WeightsError: not such a file, or of another backbone.
    """
    if not _is_classifier(file):
        load_backbone(network.backbone, file)
        return
    classifier, _ = load_classifier(file)
    if classifier.name != network.yaml['backbone']:
        raise WeightsError(f'{file} has the backbone {classifier.name}, the detector {network.yaml["backbone"]}')
    network.backbone.load_state_dict(classifier.backbone.state_dict())


def _is_classifier(file: Path) -> bool:
    """Whether it is of `save_classifier`."""
    try:
        return {'backbone', 'classes', 'state'} <= read_file(file).keys()
    except WeightsError:
        return False


def write_file(content: Mapping[str, Any], file: Path) -> None:
    """Write tensors and plain values, whole or not at all.

    Raises:
        FitError: it cannot be written.
    """
    partial = file.with_suffix('.partial')
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, partial)
        os.replace(partial, file)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise FitError(f'{file} cannot be written: {error}; is the disk full?') from error


def read_file(file: Path) -> dict[str, Any]:
    """What `write_file` wrote.

    Raises:
        WeightsError: missing, broken or something else.
    """
    try:
        with zipfile.ZipFile(file):  # torch's older format is read by a parser that fails in more ways
            content = torch.load(file, map_location='cpu', weights_only=True)
    except (zipfile.BadZipFile, OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise WeightsError(f'{file} cannot be read: {error}') from error
    if not isinstance(content, dict):
        raise WeightsError(f'{file} is not a file of this toolkit')
    return content
