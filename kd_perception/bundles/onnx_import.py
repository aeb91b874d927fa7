"""Makes a bundle of an ONNX file that the user already has, such as Ultralytics' export, and proves that it runs."""

from __future__ import annotations

import ast
import hashlib
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kd_perception import engines
from kd_perception.bundles.bundle import Bundle, write_bundle
from kd_perception.detection.detector import Detector
from kd_perception.errors import BundleError

MAX_METADATA_CHARACTERS = 200_000
_INPUT_TYPES = {'tensor(float)': 'float32', 'tensor(uint8)': 'uint8'}


@dataclass(frozen=True)
class ImportOptions:
    """What the file does not say, or says wrongly.

    Attributes:
        classes: class names in the order of the class ids; empty takes the file's metadata.
        size: input width and height in pixels; None takes the graph's.
        colour: channel order that the network was trained with, `rgb` or `bgr`.
        scale: what pixel values 0 … 255 are divided by before the network; float inputs only.
        precision: how the artifact is called.
        licence: licence of the weights; empty takes the file's metadata.
    """

    classes: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    colour: str = 'rgb'
    scale: float = 255.0
    precision: str = 'fp32'
    licence: str = ''
    thresholds: dict[str, float] = field(default_factory=lambda: {'score': 0.25, 'iou': 0.6})


def bundle_from_onnx(model: Path, folder: Path, options: ImportOptions | None = None) -> Bundle:
    """Copy an ONNX detector into a new bundle folder, describe it, and run one frame through it.

    Args:
        model: the ONNX file, with one image as input and one of our output layouts.
        folder: the bundle to make; must not exist yet.
        options: what the file itself does not say.

    Raises:
        BundleError: the file is missing or does not look like a detector that we can decode; says what to pass.
        EngineError: ONNX Runtime refuses the file or a frame.
    """
    options = options or ImportOptions()
    if folder.exists():
        raise BundleError(f'{folder} exists already; choose another folder or remove it')
    if not model.is_file():
        raise BundleError(f'there is no file {model}')
    session = _open(model)
    metadata = session.get_modelmeta().custom_metadata_map
    classes = list(options.classes or _class_names(metadata))
    document = {
        'schema_version': 1,
        'name': folder.name,
        'description': metadata.get('description', f'imported from {model.name}')[:1000],
        'license': options.licence or metadata.get('license', 'not stated by the file'),
        'classes': classes,
        'input': _describe_input(session, options),
        'output': _describe_output(session, len(classes)),
        'thresholds': options.thresholds,
        'provenance': {'imported_from': model.name, **{k: str(v)[:1000] for k, v in sorted(metadata.items())[:32]}},
    }
    folder.mkdir(parents=True)
    try:
        return _write_and_try(model, folder, document, options.precision)
    except Exception:
        shutil.rmtree(folder)
        raise


def _write_and_try(model: Path, folder: Path, document: dict[str, Any], precision: str) -> Bundle:
    shutil.copyfile(model, folder / 'model.onnx')
    digest = hashlib.sha256((folder / 'model.onnx').read_bytes()).hexdigest()
    document['artifacts'] = [{'engine': 'onnxruntime', 'precision': precision, 'file': 'model.onnx', 'sha256': digest}]
    bundle = write_bundle(folder, document)
    detector = Detector(bundle, engines.load(bundle, bundle.artifacts[0]))
    detector.warm_up(1)
    detector.close()
    return bundle


def _open(model: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BundleError('reading ONNX files needs the library: pip install onnxruntime') from error
    try:
        return onnxruntime.InferenceSession(model.read_bytes(), providers=['CPUExecutionProvider'])
    except Exception as error:  # the library's exceptions have no common base of their own
        raise BundleError(f'{model} is not an ONNX network that ONNX Runtime can load: {error}') from error


def _class_names(metadata: dict[str, str]) -> list[str]:
    """Ultralytics writes `names` as a Python dict; only literals are read from it."""
    text = metadata.get('names', '')
    try:
        names = ast.literal_eval(text) if 0 < len(text) <= MAX_METADATA_CHARACTERS else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        names = None
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names:
        raise BundleError('the file does not name its classes: pass --classes car,truck,…')
    return [str(name) for name in names]


def _describe_input(session: Any, options: ImportOptions) -> dict[str, Any]:
    inputs = session.get_inputs()
    shape, kind = inputs[0].shape, inputs[0].type
    if len(inputs) != 1 or len(shape) != 4 or kind not in _INPUT_TYPES:
        raise BundleError(
            f'one image of type float32 or uint8 is expected as input, not {len(inputs)} of {kind} {shape}'
        )
    layout = 'nhwc' if shape[3] == 3 else 'nchw'
    height, width = shape[1:3] if layout == 'nhwc' else shape[2:4]
    if options.size is not None:
        width, height = options.size
    if not isinstance(width, int) or not isinstance(height, int):
        raise BundleError(f'the network takes any size ({shape}): pass --size WIDTHxHEIGHT')
    spec = {
        'width': width,
        'height': height,
        'color': options.colour,
        'dtype': _INPUT_TYPES[kind],
        'layout': layout,
        'resize': 'letterbox',
    }
    return spec | ({'std': [options.scale] * 3} if spec['dtype'] == 'float32' else {})


def _describe_output(session: Any, classes: int) -> dict[str, Any]:
    shapes = {output.name: output.shape for output in session.get_outputs()}
    if set(shapes) == {'boxes', 'scores'}:
        return {'layout': 'boxes_scores', 'box_format': 'xyxy'}
    if len(shapes) == 1:
        shape = next(iter(shapes.values()))
        if len(shape) == 3 and shape[1] == 4 + classes:
            return {'layout': 'yolo', 'box_format': 'cxcywh'}
        if len(shape) == 3 and shape[2] == 6:
            return {'layout': 'end2end', 'box_format': 'xyxy'}
    raise BundleError(
        f'outputs {shapes} with {classes} classes fit none of the layouts: boxes (1, N, 4) with scores (1, N, C); '
        f'(1, 4 + C, N); (1, N, 6). Are the classes complete?'
    )
