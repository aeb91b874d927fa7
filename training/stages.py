"""The stages from a recipe to a bundle, in order; each leaves files behind and is not repeated while its settings stay.

prepare → train → export → quantize → bundle
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kd_perception.core.bundle import Bundle, write_bundle
from kd_perception.core.letterbox import Letterbox
from training.data.dataset import read_classes, read_split
from training.errors import RecipeError
from training.recipe import Recipe

Image = npt.NDArray[np.uint8]

LIBRARIES = ('torch', 'ultralytics', 'onnx', 'onnxruntime', 'numpy', 'opencv-python-headless')
PRECISIONS = ('int8', 'fp32')
"""In the bundle's order of preference."""


@dataclass(frozen=True)
class Workshop:
    """A recipe with its folders.

    Attributes:
        recipe: what is made.
        data: folder with the data sets.
        out: working folder of this recipe, outside version control.
        target: folder of the finished bundle.
    """

    recipe: Recipe
    data: Path
    out: Path
    target: Path

    @property
    def source(self) -> Path:
        """Folder of the recipe's photographs."""
        return self.data / self.recipe.source

    @property
    def photographs(self) -> Path:
        """The same in our form: the source itself, or what `prepare` wrote of a COCO data set."""
        return self.source if self.recipe.tiles else self.sets / 'real'

    @property
    def sets(self) -> Path:
        """Folder of the prepared data sets, `real` and the sets of scenes."""
        return self.out / 'data'

    @property
    def phases(self) -> Path:
        """Folder of the training phases."""
        return self.out / 'train'

    @property
    def weights(self) -> Path:
        """Weights of the last training phase."""
        return self.phases / self.recipe.train.phases[-1].name / 'weights.pt'

    def onnx(self, precision: str) -> Path:
        """The exported network."""
        return self.out / 'export' / f'{self.recipe.name}_{precision}.onnx'

    def letterboxed(self, folder: Path, split: str, count: int) -> Iterator[Image]:
        """Images of a data set as the runtime shows them to the network, evenly spread over the split."""
        size = (self.recipe.export.width, self.recipe.export.height)
        images = [item.image for item in read_split(folder, split)]
        for index in np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int):
            image = images[index]
            canvas = np.empty((size[1], size[0], 3), np.uint8)
            yield Letterbox((image.shape[1], image.shape[0]), size).apply(image, canvas).copy()


def prepare(shop: Workshop) -> dict[str, Any]:
    """Cut tiles from the photographs, or take pictures over from COCO, and draw the synthetic scenes."""
    from training.data import aerial_traffic, coco, scenes

    real = shop.sets / 'real'
    tiles = shop.recipe.tiles
    counts = aerial_traffic.prepare(shop.source, real, tiles) if tiles else coco.prepare(shop.source, real)
    left_out = {'left_out': counts['left_out']} if counts.get('left_out') else {}
    frames = {name: scenes.prepare(shop.sets / name, settings) for name, settings in shop.recipe.scenes.items()}
    return {'real': counts['train'], **left_out, **frames}


def train(shop: Workshop) -> dict[str, Any]:
    """Train phase after phase."""
    from training.models import yolo

    recipe = shop.recipe
    weights: Path | None = None
    for number, phase in enumerate(recipe.train.phases):
        record = shop.phases / f'{phase.name}.json'
        done_so_far = dataclasses.replace(recipe.train, phases=recipe.train.phases[: number + 1])
        wanted = _fingerprint(recipe.source, recipe.tiles, recipe.scenes, recipe.seed, done_so_far)
        if not _is_done(record, wanted):
            images = [path for name, count in phase.images.items() for path in _first_images(shop.sets / name, count)]
            yolo.train(
                yolo.Phase(phase.name, images, phase.hours, {**recipe.train.arguments, **phase.arguments}),
                shop.phases,
                architecture=recipe.train.architecture,
                classes=read_classes(shop.sets / 'real'),
                seed=recipe.seed + number,
                initial_weights=weights,
            )
            _note_done(record, wanted, {})
        weights = shop.phases / phase.name / 'weights.pt'
    return {'weights': _sha256(shop.weights)}


def _first_images(folder: Path, count: int) -> list[Path]:
    images = sorted((folder / 'images' / 'train').glob('*.jpg'))
    if len(images) < count:
        raise RecipeError(f'{folder} holds {len(images)} training images, but a phase asks for {count}')
    return images[:count]


def export(shop: Workshop) -> dict[str, Any]:
    """Write the float network and prove that it computes what torch computes."""
    from training.export.onnx_export import check_parity
    from training.export.onnx_export import export as write_onnx
    from training.models.yolo import load_network

    settings = shop.recipe.export
    network, _ = load_network(shop.weights)
    module = write_onnx(network, settings.width, settings.height, shop.onnx('fp32'))
    return check_parity(module, shop.onnx('fp32'), shop.letterboxed(shop.photographs, 'val', settings.parity_images))


def quantize(shop: Workshop) -> dict[str, Any]:
    """Write the INT8 network, its ranges set by training photographs and scenes as the runtime shows them."""
    from training.quantize import qdq

    images = [
        *shop.letterboxed(shop.photographs, 'train', shop.recipe.calibration.photographs),
        *(
            image
            for name in shop.recipe.scenes
            for image in shop.letterboxed(shop.sets / name, 'train', shop.recipe.calibration.scenes)
        ),
    ]
    left = qdq.quantize(shop.onnx('fp32'), shop.onnx('int8'), images, shop.recipe.quantize)
    return {
        'calibration_images': len(images),
        'calibration_sha256': qdq.calibration_hash(images),
        'float_nodes': len(left),
    }


def bundle(shop: Workshop) -> dict[str, Any]:
    """Measure both networks on the validation photographs and write the bundle."""
    from training.measure import measure_bundle

    shop.target.mkdir(parents=True, exist_ok=True)
    for precision in PRECISIONS:
        shutil.copyfile(shop.onnx(precision), shop.target / shop.onnx(precision).name)
    document = _document(shop)
    unmeasured: Bundle = write_bundle(shop.target, document)
    results = {precision: measure_bundle(unmeasured, precision, shop.photographs) for precision in PRECISIONS}
    dataset = shop.recipe.source if shop.recipe.tiles else shop.photographs
    for artifact in document['artifacts']:
        precision = artifact['precision']
        print(f'{precision}\n{results[precision]}')
        artifact['metrics'] = {
            'dataset': f'{shop.recipe.source}/val',
            **results[precision].to_json(),
            'command': f'python -m training measure models/{shop.recipe.name} {dataset} --precision {precision}',
        }
    loss = 1 - results['int8'].map / max(results['fp32'].map, 1e-9)
    document['provenance']['int8_relative_map_loss'] = round(loss, 4)
    write_bundle(shop.target, document)
    return {precision: result.to_json() for precision, result in results.items()}


def _document(shop: Workshop) -> dict[str, Any]:
    recipe = shop.recipe
    records = {stage: _result(shop, stage) for stage in ('prepare', 'export', 'quantize')}
    return {
        'schema_version': 1,
        'name': recipe.name,
        'family': recipe.name,
        'description': recipe.bundle.description,
        'licence': recipe.bundle.licence,
        'attribution': list(recipe.bundle.attribution),
        'classes': list(read_classes(shop.sets / 'real')),
        'input': {
            'width': recipe.export.width,
            'height': recipe.export.height,
            'colour': 'bgr',
            'dtype': 'uint8',
            'layout': 'nhwc',
            'resize': 'letterbox',
            'pad': 114,
        },
        'output': {'layout': 'boxes_scores', 'box_format': 'xyxy', 'max_detections': 300},
        'thresholds': {'score': recipe.bundle.score, 'iou': recipe.bundle.iou},
        'artifacts': [
            {
                'engine': 'onnxruntime',
                'precision': precision,
                'file': shop.onnx(precision).name,
                'sha256': _sha256(shop.onnx(precision)),
                'made_by': f'python -m training run training/recipes/{recipe.file.name}',
            }
            for precision in PRECISIONS
        ],
        'provenance': {
            'method': f'trained from scratch, {recipe.train.architecture}; INT8 by static quantization',
            'recipe': f'training/recipes/{recipe.file.name}',
            'recipe_sha256': _sha256(recipe.file),
            'data': recipe.bundle.data,
            'commit': _commit(),
            'seed': recipe.seed,
            'date': datetime.now(timezone.utc).strftime('%Y-%m-%d'),
            'tools': {'python': sys.version.split()[0], **{name: metadata.version(name) for name in LIBRARIES}},
            **records,
        },
    }


STAGES: dict[str, Callable[[Workshop], dict[str, Any]]] = {
    'prepare': prepare,
    'train': train,
    'export': export,
    'quantize': quantize,
    'bundle': bundle,
}
"""In order; every stage needs those before it."""


def run(shop: Workshop, names: list[str], *, again: bool = False) -> None:
    """Run stages in order, leaving out those that were done with the same settings unless `again`.

    Raises:
        RecipeError: a stage needs another one that was not run.
    """
    missing = ''
    for name in STAGES:
        record, wanted = shop.out / f'{name}.json', _inputs(shop, name)
        done = _is_done(record, wanted)
        if name not in names:
            missing = missing or ('' if done else name)
            continue
        if missing:
            raise RecipeError(
                f'{name} needs the stage {missing}, which was not run with these settings; '
                f'python -m training run {shop.recipe.file} runs what is missing'
            )
        if done and not again:
            print(f'{name}: done before with the same settings')
            continue
        print(f'{name} …', flush=True)
        shop.out.mkdir(parents=True, exist_ok=True)
        result = STAGES[name](shop)
        _note_done(record, wanted, result)
        print(f'{name}: {json.dumps(result)}', flush=True)


def _inputs(shop: Workshop, stage: str) -> dict[str, Any]:
    """What a stage's result depends on: its own settings and those of the stages before it."""
    recipe = shop.recipe
    settings: dict[str, list[Any]] = {
        'prepare': [recipe.source, recipe.tiles, recipe.scenes],
        'train': [recipe.seed, recipe.train],
        'export': [recipe.export],
        'quantize': [recipe.quantize, recipe.calibration],
        'bundle': [recipe.bundle],
    }
    names = list(settings)
    return _fingerprint(*(settings[name] for name in names[: names.index(stage) + 1]))


def _fingerprint(*settings: Any) -> dict[str, Any]:
    text = json.dumps(settings, default=_plain, sort_keys=True)
    return {'settings': hashlib.sha256(text.encode()).hexdigest()}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return str(value)


def _is_done(record: Path, wanted: dict[str, Any]) -> bool:
    return record.is_file() and json.loads(record.read_text(encoding='utf-8'))['wanted'] == wanted


def _note_done(record: Path, wanted: dict[str, Any], result: dict[str, Any]) -> None:
    record.write_text(json.dumps({'wanted': wanted, 'result': result}, indent=1), encoding='utf-8')


def _result(shop: Workshop, stage: str) -> dict[str, Any]:
    return dict(json.loads((shop.out / f'{stage}.json').read_text(encoding='utf-8'))['result'])


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _commit() -> str:
    """The checkout's commit, marked where tracked files of the training differ from it."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(['git', 'rev-parse', 'HEAD'], cwd=here, capture_output=True, text=True, check=True)
        changed = subprocess.run(
            ['git', 'status', '--porcelain', '.'], cwd=here, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'
    return commit.stdout.strip() + ('+changes' if changed.stdout.strip() else '')
