"""INT8 by this package and by others, on one bundle: accuracy on the val split, and time beside the float network.

    python -m benchmarks.int8 models/mine my_photos --out out/int8

The bundle's own INT8 artifacts are measured as they are; `python -m training quantize` makes them. The others quantize the same
float network with the same calibration pictures, by their own defaults: ONNX Runtime's `quantize_static` (activations of 8 and
16 bits), NNCF's `quantize`, and Model Optimizer's, each where it is installed. All networks of an engine run in turn; times are
medians, with one thread of the process's time on the CPU.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from kd_perception import engines
from kd_perception.bundles.bundle import Bundle, load_bundle
from kd_perception.engines.options import EngineOptions
from kd_perception.errors import KdPerceptionError
from training.data.root import data_set
from training.measure import measure_artifact, with_file
from training.quantize.pictures import pictures_of
from training.quantize.timing import measure_times

ENGINES = ('onnxruntime', 'openvino')
Maker = Callable[[Path, Path, Sequence[Any]], None]


def main() -> int:
    """Make the others' networks, measure all, print the table."""
    parser = argparse.ArgumentParser('python -m benchmarks.int8', description=__doc__.splitlines()[0])
    parser.add_argument('bundle', type=Path)
    parser.add_argument('dataset', type=Path)
    parser.add_argument('--data', type=Path)
    parser.add_argument('--images', type=int, default=64, help='calibration pictures')
    parser.add_argument('--rounds', type=int, default=30, help='timed inferences of each network')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument(
        '--only-times', action='store_true', help='of the artifacts of the bundle alone, in a few seconds'
    )
    parser.add_argument('--out', type=Path, default=Path('out/int8'))
    options = parser.parse_args()
    bundle, dataset = load_bundle(options.bundle), data_set(options.dataset, options.data)
    pictures = pictures_of(bundle, dataset, 1 if options.only_times else options.images, 1)
    networks: dict[str, Path] = {}
    if not options.only_times:
        folder = options.out / bundle.name
        folder.mkdir(parents=True, exist_ok=True)
        networks = dict(_others(bundle, pictures.fed, folder))
    networks |= {
        f'this package, for {a.engine}': bundle.folder / a.file for a in bundle.artifacts if a.precision == 'int8'
    }
    print('| network | engine | mAP50-95 | ms | times float |\n|---|---|---|---|---|', flush=True)
    for engine in ENGINES:
        _measure(bundle, dataset, networks, engine, pictures.fed[0], options)
    return 0


def _others(bundle: Bundle, fed: Sequence[Any], folder: Path) -> Iterator[tuple[str, Path]]:
    source = bundle.folder / bundle.artifact('onnxruntime', 'fp32').file
    for name, make in MAKERS.items():
        file = folder / f'{name.replace(" ", "_").replace(",", "").lower()}.onnx'
        try:
            if not file.is_file():
                make(source, file, fed)
            yield name, file
        except Exception as error:  # libraries raise what they like, and a benchmark goes on
            print(f'{name}: {type(error).__name__}: {str(error).strip().splitlines()[0][:160] if str(error) else ""}')


def _onnxruntime(source: Path, target: Path, fed: Sequence[Any], bits: int = 8) -> None:
    """Static, QDQ, unsigned activations, weights of 8 bits per channel, extremes; with its own preparation."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._left = iter(fed)

        def get_next(self) -> Any:
            picture = next(self._left, None)
            return None if picture is None else {_input(source): picture[None]}

    with tempfile.TemporaryDirectory() as scratch:
        ready = Path(scratch) / 'ready.onnx'
        quant_pre_process(str(_modern(source, Path(scratch))), str(ready), skip_symbolic_shape=True)
        quantize_static(
            str(ready),
            str(target),
            Reader(),
            per_channel=True,
            activation_type=QuantType.QUInt8 if bits == 8 else QuantType.QUInt16,
            weight_type=QuantType.QInt8,
        )


def _nncf(source: Path, target: Path, fed: Sequence[Any]) -> None:
    """Its post-training quantization with mixed preset, as its documentation advises for SiLU and the like."""
    import nncf

    with tempfile.TemporaryDirectory() as scratch:
        model = onnx.load(_modern(source, Path(scratch)))
    name = model.graph.input[0].name
    data = nncf.Dataset(list(fed), lambda picture: {name: picture[None]})
    onnx.save(nncf.quantize(model, data, preset=nncf.QuantizationPreset.MIXED, subset_size=len(fed)), target)


def _modelopt(source: Path, target: Path, fed: Sequence[Any]) -> None:
    """Its INT8 for TensorRT, calibrated on the CPU."""
    from modelopt.onnx.quantization import quantize

    with tempfile.TemporaryDirectory() as scratch:
        file = _modern(source, Path(scratch))
        data = {_input(source): np.stack(fed)}
        quantize(
            str(file), quantize_mode='int8', calibration_data=data, calibration_eps=['cpu'], output_path=str(target)
        )


def _modern(source: Path, folder: Path) -> Path:
    """The float network as this package makes it ready; the others refuse old graphs or lose at them."""
    from training.quantize.network import read_network

    file = folder / 'modern.onnx'
    onnx.save(read_network(source), file)
    return file


def _input(source: Path) -> str:
    graph = onnx.load(source).graph
    weights = {constant.name for constant in graph.initializer}
    return next(str(value.name) for value in graph.input if value.name not in weights)


MAKERS: dict[str, Maker] = {
    'onnxruntime.quantization': _onnxruntime,
    'onnxruntime.quantization, 16-bit activations': partial(_onnxruntime, bits=16),
    'NNCF': _nncf,
    'Model Optimizer': _modelopt,
}


def _measure(
    bundle: Bundle, dataset: Path, networks: dict[str, Path], engine: str, picture: Any, options: argparse.Namespace
) -> None:
    if not engines.availability(engine):
        return
    source = bundle.folder / bundle.artifact('onnxruntime', 'fp32').file
    timed = {'float': (source, 'fp32')}
    for name, file in networks.items():
        try:
            one = with_file(bundle, file, 'int8', engine)
            engines.load(one, one.artifacts[0], EngineOptions(threads=options.threads)).close()
            timed[name] = file, 'int8'
        except KdPerceptionError as error:
            print(f'{name} on {engine}: {error}', flush=True)
    measured = measure_times(bundle, engine, timed, picture, options.rounds, options.threads)
    times, engine_as = measured.ms, engine if measured.amx else f'{engine} without AMX'
    for name, (file, precision) in timed.items():
        if options.only_times:
            print(f'| {name} | {engine_as} | – | {times[name]:.1f} | {times["float"] / times[name]:.2f} |', flush=True)
            continue
        one = with_file(bundle, file, precision, engine)
        found = measure_artifact(one, one.artifacts[0], dataset, threads=options.threads).accuracy
        ratio = times['float'] / times[name]
        print(f'| {name} | {engine_as} | {100 * found.map:.2f} | {times[name]:.1f} | {ratio:.2f} |', flush=True)


if __name__ == '__main__':
    raise SystemExit(main())
