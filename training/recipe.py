"""Recipes: one YAML file with every setting of a bundle, checked when it is read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from training.data.aerial_traffic import TileSettings
from training.data.scenes import SceneSetSettings
from training.errors import RecipeError
from training.quantize.qdq import QuantizeSettings

Settings = TypeVar('Settings')
FORMATS = ('aerial_traffic', 'coco')
"""What `source` may be: photographs of which tiles are cut, or pictures with COCO annotations."""


@dataclass(frozen=True)
class PhaseRecipe:
    """One training phase.

    Attributes:
        name: of the phase and its folder.
        images: number of images by data set, `real` or the name of a set of scenes; the first ones of each.
        hours: wall-clock time; 0 trains for `arguments.epochs`.
        arguments: settings of Ultralytics' trainer that differ from the recipe's `arguments`.
    """

    name: str
    images: Mapping[str, int]
    hours: float = 0.0
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainRecipe:
    """Training.

    Attributes:
        architecture: Ultralytics' model file.
        arguments: settings of Ultralytics' trainer, for all phases.
        phases: in order; each continues from the one before.
    """

    architecture: str
    arguments: Mapping[str, Any]
    phases: tuple[PhaseRecipe, ...]


@dataclass(frozen=True)
class ExportRecipe:
    """Export: input size in pixels, and the number of validation images on which torch and ONNX must agree."""

    width: int
    height: int
    parity_images: int = 4


@dataclass(frozen=True)
class CalibrationRecipe:
    """Number of training photographs, and of frames of every set of scenes, that set the INT8 ranges."""

    photographs: int
    scenes: int


@dataclass(frozen=True)
class BundleRecipe:
    """What the bundle says of itself, and its default operating point."""

    description: str
    licence: str
    attribution: tuple[str, ...]
    data: str
    score: float = 0.25
    iou: float = 0.6


@dataclass(frozen=True)
class Recipe:
    """A whole recipe.

    Attributes:
        file: where it was read.
        name: of the bundle.
        seed: of everything drawn in training.
        source: folder of the data set, relative to the data root.
        tiles: how photographs are cut; None where the source is a COCO data set, whose pictures are taken whole.
        scenes: sets of synthetic frames by name; may be empty.
    """

    file: Path
    name: str
    seed: int
    source: str
    tiles: TileSettings | None
    scenes: Mapping[str, SceneSetSettings]
    train: TrainRecipe
    export: ExportRecipe
    quantize: QuantizeSettings
    calibration: CalibrationRecipe
    bundle: BundleRecipe


def load_recipe(file: Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        RecipeError: not readable, an entry missing or unknown.
    """
    try:
        document = yaml.safe_load(file.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f'{file} cannot be read: {error}') from error
    if not isinstance(document, dict):
        raise RecipeError(f'{file} is not a mapping')
    try:
        train = dict(document['train'])
        phases = tuple(_settings(PhaseRecipe, entry, 'train.phases', file) for entry in train.pop('phases'))
        return Recipe(
            file=file,
            name=document['name'],
            seed=int(document['seed']),
            source=document['source'],
            tiles=_tiles(document, file),
            scenes={
                name: _settings(SceneSetSettings, entries, f'scenes.{name}', file)
                for name, entries in document.get('scenes', {}).items()
            },
            train=_settings(TrainRecipe, {**train, 'phases': phases}, 'train', file),
            export=_settings(ExportRecipe, document['export'], 'export', file),
            calibration=_settings(CalibrationRecipe, document['calibration'], 'calibration', file),
            quantize=_settings(QuantizeSettings, document['quantize'], 'quantize', file),
            bundle=_settings(BundleRecipe, document['bundle'], 'bundle', file),
        )
    except KeyError as error:
        raise RecipeError(f'{file} lacks the entry {error.args[0]!r}') from error


def _tiles(document: Mapping[str, Any], file: Path) -> TileSettings | None:
    form = document.get('format', 'aerial_traffic')
    if form not in FORMATS:
        raise RecipeError(f'{file}: format is {form!r}; known are {", ".join(FORMATS)}')
    if form == 'aerial_traffic':
        return _settings(TileSettings, document['tiles'], 'tiles', file)
    if 'tiles' in document:
        raise RecipeError(f'{file}: pictures of the format {form} are taken whole; leave the entry tiles out')
    return None


def _settings(kind: type[Settings], entries: Mapping[str, Any], where: str, file: Path) -> Settings:
    """Build a settings class; lists become tuples."""
    known = {entry.name for entry in fields(kind)}
    unknown = sorted(set(entries) - known)
    if unknown:
        raise RecipeError(
            f'{file}: {where} has unknown entries {", ".join(unknown)}; known are {", ".join(sorted(known))}'
        )
    try:
        return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in entries.items()})
    except TypeError as error:
        raise RecipeError(f'{file}: {where}: {error}') from error


def data_root(given: Path | None) -> Path:
    """The folder with the data sets: the one given, else `$KD_DATA`, else `../shared/data`.

    Raises:
        RecipeError: it does not exist.
    """
    root = given or Path(os.environ.get('KD_DATA') or '../shared/data')
    if not root.is_dir():
        raise RecipeError(f'no data at {root}: give --data FOLDER or set KD_DATA')
    return root
