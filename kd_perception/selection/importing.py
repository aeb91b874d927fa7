"""Makes a bundle of an ONNX detector that others exported: runs it on pictures, finds out what it is, and lets it detect."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kd_perception import engines
from kd_perception.bundles.bundle import MAX_ARTIFACT_BYTES, Artifact, Bundle, write_bundle
from kd_perception.bundles.foreign import darknet
from kd_perception.bundles.foreign.document import NAME, bundle_document
from kd_perception.bundles.foreign.family import Array, Proposal, Seen
from kd_perception.bundles.foreign.metadata import Stated, check_task, read_metadata, unique
from kd_perception.bundles.foreign.network_input import ImageInput, image_input
from kd_perception.bundles.foreign.options import ImportOptions
from kd_perception.bundles.foreign.reading import read
from kd_perception.bundles.onnx_edit import GraphEditor
from kd_perception.bundles.onnx_integrity import check_integrity
from kd_perception.bundles.onnx_outline import FLOAT16, Outline, read_outline
from kd_perception.detection.detections import Detections
from kd_perception.detection.detector import Detector, InputBuffer
from kd_perception.detection.engine import Engine
from kd_perception.detection.image import BgrImage
from kd_perception.detection.network import InputSpec, OutputSpec
from kd_perception.detection.thresholds import Thresholds
from kd_perception.errors import BundleError, EngineError
from kd_perception.regular_file import PATH_ERRORS, read_regular, shown, why
from kd_perception.scene import Scene

SCENES = 3
"""Synthetic pictures beside the user's own."""
SCENE_SIZE = 640, 384
MODEL_FILE = 'model.onnx'
_NOT_ONNX: Mapping[str, str] = {
    **dict.fromkeys(
        ('.pt', '.pth'),
        'a checkpoint of PyTorch, which is never unpickled here: export it as ONNX (yolo export format=onnx)',
    ),
    **dict.fromkeys(
        ('.engine', '.plan', '.trt'), 'an engine of TensorRT, for one GPU: give the ONNX file that it was made from'
    ),
    **dict.fromkeys(
        ('.tflite', '.xml', '.bin', '.param', '.mlpackage', '.torchscript'), 'no ONNX file: export the network as ONNX'
    ),
    '.weights': "Darknet's weights: give the .cfg, and these with --weights",
}
"""What people take for a network to import."""
_LOWEST_SCORE = 0.001
_NEARLY_NOTHING = 0.5
"""Sum of scores a picture below which other colors and another scale are tried."""


@dataclass(frozen=True)
class Imported:
    """What came of it.

    Attributes:
        bundle: the new bundle.
        lines: what was found out, as pairs of a heading and a text.
        found: picture → what the bundle detects on it, at its own threshold.
        hint: what may be wrong with colors or scale, by the user's pictures; empty where nothing speaks for it.
    """

    bundle: Bundle
    lines: Sequence[tuple[str, str]]
    found: Mapping[str, Detections]
    hint: str = ''


def import_network(
    model: Path, folder: Path, options: ImportOptions | None = None, pictures: Mapping[str, BgrImage] | None = None
) -> Imported:
    """Copy a detector, as ONNX or of Darknet, into a new bundle folder, with what decodes it, and detect on pictures.

    Args:
        model: the ONNX file, or Darknet's `.cfg`.
        folder: the bundle to make; must not exist yet.
        options: what the file itself does not say.
        pictures: the user's own, BGR of any size, beside synthetic ones.

    Raises:
        BundleError: the file is missing, or no detector that can be decoded; says what it is and what to do.
        EngineError: ONNX Runtime refuses the file or a frame.
    """
    options, pictures = options or ImportOptions(), pictures or {}
    _check_place(folder)
    content = _read(model, options.weights)
    try:
        network = _understand(content, model.name, options, list(pictures.values()))
    except (BundleError, EngineError) as error:
        raise BundleError(f'{shown(model)}: {error}') from error
    try:
        folder.mkdir(parents=True)
    except PATH_ERRORS as error:
        raise BundleError(f'{shown(folder)} cannot be made: {why(error)}') from error
    try:
        bundle = _write(folder, model.name, network, options)
        with closing(Detector(bundle, engines.load(bundle, bundle.artifacts[0]))) as detector:
            found = _detect(detector, {**_scenes(), **pictures})
            hint = _hint(detector, list(pictures.values()))
    except BaseException:
        shutil.rmtree(folder)
        raise
    return Imported(bundle, network.lines(), found, hint)


@dataclass(frozen=True)
class _Network:
    """A file that was understood.

    Attributes:
        content: of the bundle's file.
        changed: it is not the user's, byte by byte.
    """

    content: bytes
    changed: bool
    outline: Outline
    stated: Stated
    image: InputSpec
    proposal: Proposal
    classes: tuple[str, ...]

    def lines(self) -> list[tuple[str, str]]:
        spec, proposal = self.image, self.proposal
        scaled = '' if spec.dtype == 'uint8' else f', mean {_three(spec.mean)}, divided by {_three(spec.std)}'
        rows = [
            ('input', f'{spec.width}x{spec.height} {spec.color} {spec.dtype} {spec.layout}, {spec.resize}{scaled}'),
            ('output', proposal.what),
            *(tuple(line.split(': ', 1)) for line in proposal.found),
        ]
        stated = (
            f'the file is of {self.stated.exporter}' if self.stated.exporter else 'the file does not say who wrote it'
        )
        rows.append(('stated', f'{stated}; {len(self.classes)} classes, precision {self.outline.precision}'))
        rows.append(('graph', 'decoding added' if self.changed else 'as it was'))
        if not proposal.evidence:
            rows.append(
                ('doubt', 'the network found nothing in the pictures, so no value was looked at: pass --picture')
            )
        return [(heading, text) for heading, text in rows]


def _three(values: Sequence[float]) -> str:
    return f'{values[0]:g}' if len(set(values)) == 1 else ', '.join(f'{value:g}' for value in values)


def _check_place(folder: Path) -> None:
    """The bundle is called as its folder: better known before the network has run."""
    if os.path.lexists(folder):
        raise BundleError(f'{shown(folder)} exists already; choose another folder or remove it')
    if not re.fullmatch(NAME, folder.name):
        raise BundleError(
            f'--out {shown(folder)}: the bundle is called as its folder, by letters, digits, dot, dash and underscore, at most 64'
        )


def _read(model: Path, weights: Path | None) -> bytes:
    """The network as ONNX."""
    suffix = model.suffix.lower()
    if suffix in _NOT_ONNX:
        raise BundleError(f'{shown(model)}: {_NOT_ONNX[suffix]}')
    if suffix != darknet.SUFFIX:
        content = read_regular(model, MAX_ARTIFACT_BYTES)
        check_integrity(content, shown(model))
        return content
    values = read_regular(weights or model.with_suffix('.weights'), MAX_ARTIFACT_BYTES)
    configuration = read_regular(model, darknet.MAX_CFG_BYTES)
    try:
        return darknet.convert(configuration, values)
    except BundleError as error:
        raise BundleError(f'{shown(model)}: {error}') from error


def _understand(content: bytes, name: str, options: ImportOptions, pictures: list[BgrImage]) -> _Network:
    outline = read_outline(content, name)
    stated = read_metadata(outline.metadata)
    check_task(stated)
    _check_operations(outline)
    image = image_input(outline, stated, options)
    editor = GraphEditor(content, outline.opset)
    runnable = editor.finish() if image.adapt(editor) else content
    spec = image.spec(options, {})
    seen = _look(runnable, spec, pictures, outline, stated, options)
    proposal = read(seen)
    usual = image.spec(options, proposal.input)
    if usual != spec:  # its own colors and scale: what the values hold is looked at again
        proposal = read(_look(runnable, usual, pictures, outline, stated, options))
    classes = unique(list(options.classes)) or stated.class_names(proposal.classes)
    changed = _decoded(content, outline, image, proposal)
    return _Network(changed, changed != content, outline, stated, usual, proposal, classes)


def _check_operations(outline: Outline) -> None:
    """Operations of TensorRT's plugins stand in no ONNX Runtime."""
    plugins = [operation for operation in outline.operations if 'TRT' in operation]
    if plugins:
        raise BundleError(
            f'it ends with {", ".join(plugins)}, a plugin of TensorRT that no other engine has: export it without NMS'
        )


def _decoded(content: bytes, outline: Outline, image: ImageInput, proposal: Proposal) -> bytes:
    editor = GraphEditor(content, outline.opset)
    adapted = image.adapt(editor)
    if proposal.build is not None:
        return editor.finish(proposal.build(editor))
    return editor.finish() if adapted else content


def _look(
    content: bytes, spec: InputSpec, pictures: list[BgrImage], outline: Outline, stated: Stated, options: ImportOptions
) -> Seen:
    """What the network gives on the pictures."""
    frames = [*_scenes().values(), *pictures]
    with tempfile.TemporaryDirectory(prefix='kd_perception_import_') as scratch:
        file = Path(scratch) / MODEL_FILE
        file.write_bytes(content)
        artifact = Artifact('onnxruntime', outline.precision, file.name, hashlib.sha256(content).hexdigest())
        bundle = _bare(Path(scratch), spec, artifact)
        with closing(engines.load(bundle, artifact)) as engine:
            outputs = _outputs(engine, InputBuffer(spec), frames)
    half = frozenset(port.name for port in outline.outputs if port.kind == FLOAT16)
    return Seen(outputs, (spec.width, spec.height), stated, options, half)


def _outputs(engine: Engine, buffer: InputBuffer, frames: Sequence[BgrImage]) -> dict[str, list[Array]]:
    found: dict[str, list[Array]] = {}
    for frame in frames:
        buffer.fill(frame)
        for name, value in engine.infer(buffer.batch).items():
            found.setdefault(name, []).append(np.array(value))
    return found


def _bare(folder: Path, spec: InputSpec, artifact: Artifact) -> Bundle:
    """A bundle of which only input and artifact are known."""
    return Bundle(
        *(folder, 'import', 'import', '', '', (), ()),
        input=spec,
        output=OutputSpec('boxes_scores'),
        thresholds=Thresholds(0.25, 0.6),
        artifacts=(artifact,),
        provenance={},
    )


def _write(folder: Path, file: str, network: _Network, options: ImportOptions) -> Bundle:
    (folder / MODEL_FILE).write_bytes(network.content)
    document = bundle_document(
        folder.name,
        options,
        outline=network.outline,
        stated=network.stated,
        image=network.image,
        proposal=network.proposal,
        classes=network.classes,
        imported_from=file,
        changed=network.changed,
    )
    digest = hashlib.sha256(network.content).hexdigest()
    precision = options.precision or network.outline.precision
    document['artifacts'] = [{'engine': 'onnxruntime', 'precision': precision, 'file': MODEL_FILE, 'sha256': digest}]
    return write_bundle(folder, document)


@functools.cache
def _scenes() -> dict[str, BgrImage]:
    return {f'scene {seed}': Scene(seed, *SCENE_SIZE).frame(0).image for seed in range(SCENES)}


def _detect(detector: Detector, pictures: Mapping[str, BgrImage]) -> dict[str, Detections]:
    """Detections at the bundle's threshold; everything down to nearly nothing is decoded and looked at."""
    usual = detector.thresholds
    detector.thresholds = usual.down_to(min(_LOWEST_SCORE, usual.score))
    all_of_them = {name: detector.detect(picture)[0] for name, picture in pictures.items()}
    detector.thresholds = usual
    return {name: found.select(found.scores >= usual.score) for name, found in all_of_them.items()}


def _hint(detector: Detector, pictures: Sequence[BgrImage]) -> str:
    """Whether other colors or another scale find something in the user's pictures, where these find nearly nothing."""
    spec = detector.bundle.input
    if not pictures or spec.dtype == 'uint8':
        return ''
    other = 'bgr' if spec.color == 'rgb' else 'rgb'
    scales = {(255.0,) * 3: (1.0,) * 3, (1.0,) * 3: (255.0,) * 3}
    variants = {f'--color {other}': replace(spec, color=other)}
    if spec.std in scales:
        std = scales[spec.std]
        variants[f'--scale {std[0]:g}'] = replace(spec, std=std)
        variants[f'--color {other} --scale {std[0]:g}'] = replace(spec, color=other, std=std)
    certain = _certainty(detector, spec, pictures)
    if certain >= _NEARLY_NOTHING * len(pictures):
        return ''
    best, text = max((_certainty(detector, variant, pictures), text) for text, variant in variants.items())
    if best <= certain + _NEARLY_NOTHING * len(pictures):
        return ''
    return f'with {text} it finds more in your pictures (sum of scores {best:.1f}, not {certain:.1f}): check how it was trained'


def _certainty(detector: Detector, spec: InputSpec, pictures: Sequence[BgrImage]) -> float:
    """Sum of the scores of all detections."""
    assert isinstance(detector.bundle, Bundle)
    variant = Detector(replace(detector.bundle, input=spec), detector.engine)
    return sum(float(variant.detect(picture)[0].scores.sum()) for picture in pictures)


def summary(found: Detections, classes: Sequence[str]) -> str:
    """Detections in a line: `3 car 0.91, 1 bus 0.45`, with the best score of each class."""
    counts = Counter(int(number) for number in found.class_ids)
    best = {number: float(found.scores[found.class_ids == number].max()) for number in counts}
    ordered = sorted(counts, key=lambda number: -best[number])
    return ', '.join(f'{counts[n]} {classes[n]} {best[n]:.2f}' for n in ordered[:8]) or 'nothing'
