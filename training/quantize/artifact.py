"""The last word on an INT8 network, and its way into the bundle: nothing beyond the accuracy gate is written."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

from kd_perception.bundles.bundle import BUNDLE_FILE, Artifact, Bundle, write_bundle
from kd_perception.bundles.bundle_yaml import read
from kd_perception.selection.gate import refusal
from training.data.dataset import read_split
from training.errors import ExportError, QuantizationError
from training.export import parity
from training.export.parity import check, detections_of
from training.measure import Measurement, measure_artifact, with_file
from training.quantize.pictures import Pictures
from training.quantize.search import FASTER, Found, SearchSettings
from training.steps import commit, digest

PARITY_IMAGES = 16
FAINT = 0.1
SUFFIXES = {'onnxruntime': 'int8', 'openvino': 'int8_openvino', 'tensorrt': 'int8_qdq'}
"""What a network's file is called behind the bundle's name."""


@dataclass(frozen=True)
class Judgement:
    """Accuracy on the val split; None where the pictures have no labels.

    Attributes:
        int8: of the INT8 network, compared with the float one.
        float: of the float network.
    """

    int8: Measurement | None = None
    float: Measurement | None = None


def judge_artifact(
    bundle: Bundle, found: Found, pictures: Pictures, settings: SearchSettings, max_map_drop: float, called: str
) -> Judgement:
    """Hold the network that a search found against the float one: on the val split where there are labels.

    Raises:
        ExportError: it is another detector, or lost more than the gate lets through.
    """
    file, engine = found.best.file, settings.runs_on
    if pictures.dataset is None:
        if not found.best.verdict.holds(1.0):
            raise ExportError(
                f'{bundle.name} in INT8 is not the detector that it was made from: {_parity(found)}. Nothing was written'
            )
        return Judgement()
    sample = [item.image for item in islice(read_split(pictures.dataset, 'val'), PARITY_IMAGES)]
    float_artifact = bundle.artifact('onnxruntime', 'fp32')
    low = replace(bundle, thresholds=bundle.thresholds.down_to(FAINT))  # what is looked for may have fallen
    wanted = detections_of(low, bundle.folder / float_artifact.file, 'fp32', sample)
    check(file, wanted, detections_of(low, file, 'int8', sample, engine), parity.QUANTIZED)
    quantized = with_file(bundle, file, 'int8', engine)
    int8 = measure_artifact(
        quantized, quantized.artifacts[0], pictures.dataset, threads=settings.threads, against=bundle
    )
    metrics = {'dataset': f'{called}/val', **int8.stated()}
    refused = refusal(Artifact(engine, 'int8', file.name, digest(file), metrics), max_map_drop)
    if refused:
        raise ExportError(f'{bundle.name} in INT8 is beyond the accuracy gate: {refused}. Nothing was written')
    return Judgement(int8, measure_artifact(bundle, float_artifact, pictures.dataset, threads=settings.threads))


def write_artifact(
    bundle: Bundle,
    found: Found,
    pictures: Pictures,
    settings: SearchSettings,
    judgement: Judgement,
    called: str,
    command: str,
) -> Artifact:
    """Put the network into the bundle: before the float one where it is faster on the engine at hand, else behind it.

    Args:
        bundle: gets the artifact; one of the same engine and precision goes.
        found: of the search.
        pictures: that the search saw.
        settings: of the search.
        judgement: of `judge_artifact`.
        called: the data's name on the command line.
        command: that makes the artifact again.
    """
    file = f'{bundle.name}_{SUFFIXES[settings.engine]}.onnx'
    if file == bundle.artifact('onnxruntime', 'fp32').file:
        raise QuantizationError(f'{file} is the name of the float network: rename it in {BUNDLE_FILE}')
    shutil.copyfile(found.best.file, bundle.folder / file)
    document = read(bundle.folder / BUNDLE_FILE).values
    entry = {
        'engine': settings.engine,
        'precision': 'int8',
        'file': file,
        'sha256': digest(bundle.folder / file),
        'made_by': command,
    }
    if not found.best.amx:
        entry['amx'] = False
    if judgement.int8 is not None and settings.engine != 'tensorrt':
        entry['metrics'] = _metrics(bundle, judgement.int8, called, settings.engine, 'int8')
    kept = []
    for old in document['artifacts']:
        if (old['engine'], old['precision']) == (settings.engine, 'int8'):
            continue
        if judgement.float is not None and (old['engine'], old['precision']) == ('onnxruntime', 'fp32'):
            old['metrics'] = _metrics(bundle, judgement.float, called, 'onnxruntime', 'fp32')
        kept.append(old)
    faster = settings.engine != 'tensorrt' and found.best.speed >= FASTER
    document['artifacts'] = [entry, *kept] if faster else [*kept, entry]
    records = document.setdefault('provenance', {}).get('quantize', {})
    record = _record(found, pictures, settings)
    document['provenance']['quantize'] = {
        **{e: r for e, r in records.items() if e in SUFFIXES},
        settings.engine: record,
    }
    document['provenance'].pop('int8_relative_map_loss', None)
    written = write_bundle(bundle.folder, document)
    return written.artifact(settings.engine, 'int8')


def _metrics(bundle: Bundle, measured: Measurement, called: str, engine: str, precision: str) -> dict[str, Any]:
    command = f'python -m training measure models/{bundle.name} {called} --precision {precision}'
    return {
        'dataset': f'{called}/val',
        **measured.stated(),
        'command': command if engine == 'onnxruntime' else f'{command} --engine {engine}',
    }


def _record(found: Found, pictures: Pictures, settings: SearchSettings) -> dict[str, Any]:
    """What the bundle keeps of the search."""
    best = found.best
    return {
        'settings': {**asdict(settings.quantize), 'target': settings.engine},
        'steps': [step.name for step in found.steps if step.kept],
        'calibration_images': len(pictures.fed),
        'calibration_sha256': pictures.sha256,
        'judged_images': len(pictures.judged),
        'judged_by': 'agreement with the float network' if pictures.truth is None else 'mAP50-95 of training images',
        'float_layers': best.float_layers,
        'parity': best.verdict.parity.to_json(),
        'times_float': round(best.speed, 2),
        'commit': commit(),
    }


def _parity(found: Found) -> str:
    seen, limits = found.best.verdict.parity, parity.QUANTIZED
    return (
        f'of {seen.asked} detections with a score of {limits.asked_score:g} it finds {100 * seen.found:.1f} % again '
        f'(at least {100 * limits.found:g} % asked), scores {seen.score:.2g} apart (at most {limits.score:g}), mean IoU '
        f'{seen.overlap:.3f} (at least {limits.overlap:g})'
    )
