"""The bundle of a recipe: its networks, what was measured of them, and where they come from."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from kd_perception.bundles.bundle import FLOAT, Bundle, write_bundle
from kd_perception.detection.thresholds import suppression_entry
from training.data.dataset import read_classes
from training.data.spread import spread_images
from training.export.half_weights import store_in_half
from training.run.recipe import Recipe
from training.steps import Result, commit, digest

LIBRARIES = ('torch', 'ultralytics', 'torch-pruning', 'onnx', 'onnxruntime', 'numpy', 'opencv-python-headless')


def write_plain_bundle(folder: Path, networks: Mapping[str, Path], validation: Path, recipe: Recipe) -> Bundle:
    """A bundle of networks that nobody measured yet."""
    networks = _lay_networks(folder, networks, recipe)
    return write_bundle(folder, _document(folder, networks, {}, validation, recipe, {}))


def write_finished_bundle(
    folder: Path,
    weights: Path,
    networks: Mapping[str, Path],
    metrics: Mapping[str, Result],
    validation: Path,
    recipe: Recipe,
    records: Result,
) -> Result:
    """The finished bundle with what was measured and where it came from; none where an artifact is another detector.

    Raises:
        ExportError: the networks differ by more than the limits.
    """
    from training.export.heads import boxes_scores
    from training.export.parity import EXACT, HALF_WEIGHTS, check_bundle_parity
    from training.models.weights import load_network

    size = recipe.export
    network, classes = load_network(weights)
    networks = _lay_networks(folder, networks, recipe)
    parity = check_bundle_parity(
        boxes_scores(network, size.width, size.height),
        networks,
        list(spread_images(validation, 'val', size.parity_images)),
        classes=classes,
        width=size.width,
        height=size.height,
        limits=recipe.parity,
        float_limits=HALF_WEIGHTS if recipe.bundle.half_weights else EXACT,
    )
    write_bundle(folder, _document(folder, networks, metrics, validation, recipe, {'steps': records, 'parity': parity}))
    return {'parity': parity}


def _lay_networks(folder: Path, networks: Mapping[str, Path], recipe: Recipe) -> dict[str, Path]:
    """Put the networks into the bundle, under the names that they have there; returns these files by precision."""
    folder.mkdir(parents=True, exist_ok=True)
    laid = {precision: folder / _artifact_file(recipe, precision) for precision in networks}
    for precision, file in networks.items():
        if recipe.bundle.half_weights and precision == FLOAT:
            store_in_half(file, laid[precision])
        else:
            shutil.copyfile(file, laid[precision])
    return laid


def _artifact_file(recipe: Recipe, precision: str) -> str:
    """Name of a network in the bundle."""
    return f'{recipe.bundle_name}_{precision}.onnx'


def _document(
    folder: Path,
    networks: Mapping[str, Path],
    metrics: Mapping[str, Result],
    validation: Path,
    recipe: Recipe,
    records: Result,
) -> dict[str, Any]:
    """bundle.yaml."""
    about = recipe.bundle
    source = recipe.data[recipe.validation].path or recipe.validation
    classes = read_classes(validation)
    return {
        'schema_version': 1,
        'name': recipe.bundle_name,
        'family': about.family or recipe.bundle_name,
        'description': about.description,
        'license': about.licence,
        'attribution': list(about.attribution),
        'classes': list(classes),
        **({'covers': covers} if (covers := _covers(recipe, classes)) else {}),
        'input': {
            'width': recipe.export.width,
            'height': recipe.export.height,
            'color': 'bgr',
            'dtype': 'uint8',
            'layout': 'nhwc',
            'resize': 'letterbox',
            'pad': 114,
        },
        'output': {'layout': 'boxes_scores', 'box_format': 'xyxy', 'max_detections': about.max_detections},
        'thresholds': {'score': about.score, 'iou': about.iou, **suppression_entry(about.suppression)},
        'artifacts': [
            {
                'engine': 'onnxruntime',
                'precision': precision,
                'file': _artifact_file(recipe, precision),
                'sha256': digest(folder / _artifact_file(recipe, precision)),
                'made_by': f'python -m training run training/recipes/{recipe.file.name}',
                **({'metrics': _stated(recipe, source, precision, metrics[precision])} if precision in metrics else {}),
            }
            for precision in networks
        ],
        **({'provenance': _provenance(recipe, metrics, records)} if records else {}),
    }


def _covers(recipe: Recipe, classes: Sequence[str]) -> dict[str, list[str]]:
    """By class the names that the validation set's class map leads to it."""
    covers: dict[str, list[str]] = {}
    for finer, name in recipe.data[recipe.validation].class_map.items():
        if name in classes and finer not in classes:
            covers.setdefault(name, []).append(finer)
    return covers


def _stated(recipe: Recipe, source: str, precision: str, metrics: Result) -> Result:
    """What an artifact says was measured, with the command that measures it again."""
    command = f'python -m training measure models/{recipe.bundle_name} {source} --precision {precision}'
    command += '' if recipe.protocol == 'coco' else f' --protocol {recipe.protocol}'
    return {'dataset': f'{source}/val', **metrics, 'command': command}


def _provenance(recipe: Recipe, metrics: Mapping[str, Result], records: Result) -> dict[str, Any]:
    """Where the bundle comes from.

    Args:
        records: `steps`, what each gave, and `parity`, how near its networks are to each other.
    """
    final = recipe.stages[recipe.final]
    return {
        'method': recipe.bundle.method,
        'student': final.start,
        'teacher': ', '.join(final.taught_by.values()),
        'recipe': f'training/recipes/{recipe.file.name}',
        'recipe_sha256': digest(recipe.file),
        'data': recipe.bundle.data,
        'commit': commit(),
        'seed': recipe.seed,
        'date': datetime.now(timezone.utc).strftime('%Y-%m-%d'),
        'tools': {'python': sys.version.split()[0], **{name: metadata.version(name) for name in LIBRARIES}},
        'int8_relative_map_loss': round(1 - metrics['int8']['map'] / max(metrics['fp32']['map'], 1e-9), 4),
        **records,
    }
