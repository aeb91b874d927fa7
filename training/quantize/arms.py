"""The arms of a fair INT8 comparison: calibrators, weights per channel and per tensor, head in INT8 or in float, both targets.

Published INT8 results mostly state one arm, and arms of one detector differ by more than detectors do: so all are measured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from tqdm import tqdm

from kd_perception import engines
from kd_perception.bundles.bundle import Bundle
from kd_perception.engines.options import EngineOptions
from training.measure import Measurement, measure_artifact, with_file
from training.quantize.calibration import Image, Ranges
from training.quantize.qdq import QuantizeSettings, activations, float_nodes, quantize_model, ranges_of, with_shapes

FLOAT = 'FP32'
ARMS: dict[str, QuantizeSettings] = {
    'min-max, per channel, head in float': QuantizeSettings(),
    'min-max, per tensor, head in float': QuantizeSettings(per_channel=False),
    'min-max, per channel, last convolutions in INT8': QuantizeSettings(last_convolutions_float=False),
    'percentile 99.99, per channel, head in float': QuantizeSettings(method='percentile'),
    'percentile 99.999, per channel, head in float': QuantizeSettings(method='percentile', percentile=99.999),
    'entropy, per channel, head in float': QuantizeSettings(method='entropy'),
    'convolutions alone, the rest in float': QuantizeSettings(operators=('Conv',)),
    'symmetric S8S8 for TensorRT': QuantizeSettings(target='tensorrt'),
}


@dataclass(frozen=True)
class ArmResult:
    """One arm.

    Attributes:
        name: which.
        file_bytes: size of its file.
        ms: median time of an inference by ONNX Runtime on this machine, the arms in turn.
        measured: accuracy and behaviour.
    """

    name: str
    file_bytes: int
    ms: float
    measured: Measurement

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        accuracy, behavior = self.measured.accuracy.to_json(), self.measured.behavior.to_json()
        return {'arm': self.name, 'file_bytes': self.file_bytes, 'ms': round(self.ms, 2), **accuracy, **behavior}


def measure_arms(
    bundle: Bundle,
    dataset: Path,
    images: Sequence[Image],
    folder: Path,
    arms: Mapping[str, QuantizeSettings],
    *,
    rounds: int = 20,
    threads: int = 1,
) -> list[ArmResult]:
    """Quantize, measure and time every arm, the float network first.

    Args:
        bundle: with an fp32 artifact of ONNX Runtime.
        dataset: its val split is measured.
        images: calibration images.
        folder: where the networks are left.
        arms: by name.
        rounds: timed inferences of each network, one of each in turn.
        threads: CPU threads of an inference.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = bundle.folder / bundle.artifact('onnxruntime', 'fp32').file
    files = {FLOAT: source}
    model = with_shapes(source)
    known: dict[tuple[Any, ...], Ranges] = {}
    for number, (name, settings) in enumerate(arms.items()):
        key = (settings.method, settings.percentile, settings.target if settings.method == 'entropy' else '')
        if not known.get(key, {}).keys() >= set(activations(model.graph, settings)):
            known[key] = ranges_of(model, images, settings)  # arms with one calibration share it
        files[name] = folder / f'arm_{number}.onnx'
        left = float_nodes(model.graph, settings)
        onnx.save(quantize_model(model, known[key], settings, left), files[name])
    times = median_times(bundle, files, images[0], rounds, threads)
    results = []
    for name, file in tqdm(files.items(), 'measuring', unit='arm', disable=None):
        one = with_file(bundle, file, 'fp32' if name == FLOAT else 'int8')
        measured = measure_artifact(one, one.artifacts[0], dataset, threads=threads)
        results.append(ArmResult(name, file.stat().st_size, times[name], measured))
    return results


def median_times(
    bundle: Bundle, files: Mapping[str, Path], image: Image, rounds: int, threads: int
) -> dict[str, float]:
    """Median time of an inference of each network in ms. All run in turn, so that what disturbs one disturbs all."""
    loaded = {}
    for name, file in files.items():
        one = with_file(bundle, file, 'fp32' if name == FLOAT else 'int8')
        loaded[name] = engines.load(one, one.artifacts[0], EngineOptions(threads=threads))
    batch = np.ascontiguousarray(image[None])
    times: dict[str, list[float]] = {name: [] for name in files}
    for number in range(rounds + 1):
        for name, engine in loaded.items():
            started = time.perf_counter()
            engine.infer(batch)
            if number:  # the first warms up
                times[name].append(1e3 * (time.perf_counter() - started))
    for engine in loaded.values():
        engine.close()
    return {name: statistics.median(values) for name, values in times.items()}


def table(results: Sequence[ArmResult]) -> str:
    """The arms as a Markdown table, each against the first."""
    lines = [
        '| network | MB | ms | mAP50 | mAP50-95 | relative | precision at recall 0.9 | false alarms per image | D-ECE |',
        '|---|---|---|---|---|---|---|---|---|',
    ]
    reference = results[0].measured.accuracy.map
    for result in results:
        accuracy, behavior = result.measured.accuracy, result.measured.behavior
        fixed = behavior.precision_at_recall
        relative = f'{100 * (accuracy.map / reference - 1):+.1f} %' if reference else '–'
        lines.append(
            f'| {result.name} | {result.file_bytes / 1e6:.1f} | {result.ms:.0f} | {100 * accuracy.map50:.1f} '
            f'| {100 * accuracy.map:.1f} | {relative} | {"–" if fixed is None else f"{100 * fixed:.1f} %"} '
            f'| {behavior.false_alarms_per_image:.2f} | {100 * behavior.calibration_error:.1f} % |'
        )
    return '\n'.join(lines)


def class_table(results: Sequence[ArmResult], class_name: str) -> str:
    """Average precision of one class by arm, each against the first."""
    lines = [f'| network | {class_name} mAP50 | {class_name} mAP50-95 | relative |', '|---|---|---|---|']
    reference = results[0].measured.accuracy.per_class[class_name].map or 0.0
    for result in results:
        entry = result.measured.accuracy.per_class[class_name]
        if entry.map is None or entry.map50 is None:
            continue
        relative = f'{100 * (entry.map / reference - 1):+.1f} %' if reference else '–'
        lines.append(f'| {result.name} | {100 * entry.map50:.1f} | {100 * entry.map:.1f} | {relative} |')
    return '\n'.join(lines)
