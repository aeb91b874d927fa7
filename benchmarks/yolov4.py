"""Size and CPU time of YOLOv4, M-YOLO and RV-YOLO, in FP32 and INT8: `python -m benchmarks.yolov4`.

Weights are random: size and time depend on the architecture alone. All networks take turns within one run, so that other load on
the machine falls on all alike.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import machine, report
from training.errors import TrainingError
from training.export.onnx_export import export
from training.models.weights import build_network
from training.models.yolov4.backbones import mebibytes, parameter_count
from training.prune.cost import Latency, measure_latency
from training.quantize.qdq import QuantizeSettings, quantize

NETWORKS = {
    'YOLOv4': {'backbone': 'cspdarknet53', 'neck': 'full'},
    'M-YOLO': {'backbone': 'mobilenet_v2', 'neck': 'depthwise'},
    'M-YOLO light': {'backbone': 'mobilenet_v2', 'neck': 'light'},
    'RV-YOLO': {'backbone': 'repvit_m1_1', 'neck': 'full'},
    'RV-YOLO light': {'backbone': 'repvit_m0_9', 'neck': 'depthwise'},
}
PRECISIONS = ('fp32', 'int8')
CALIBRATION_IMAGES = 2
EPILOG = """\
examples:
  python -m benchmarks.yolov4
  python -m benchmarks.yolov4 --size 608 608 --rounds 20 --threads 1 2
"""


@dataclass(frozen=True)
class Built:
    """A network and its files.

    Attributes:
        parameters: number of them, for training.
        mib: their size in float32, the papers' "MB".
        files: ONNX by precision.
    """

    parameters: int
    mib: float
    files: dict[str, Path]


def main() -> int:
    """Build, export, quantize and time; nothing else should run on the machine meanwhile."""
    options = _options()
    warnings.filterwarnings('ignore')  # of the exporter, whose graphs are checked elsewhere
    torch.set_num_threads(1)
    results: dict[str, Any] = {'machine': machine.describe(), 'options': vars(options) | {'out': str(options.out)}}
    try:
        with tempfile.TemporaryDirectory() as folder:
            results['rows'] = _measure(options, Path(folder))
    except TrainingError as error:
        print(f'benchmarks.yolov4: {error}', file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / 'yolov4.json').write_text(json.dumps(results, indent=1) + '\n')
    text = markdown(results)
    (options.out / 'yolov4.md').write_text(text + '\n')
    print(text)
    return 0


def _measure(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    built = {
        name: _build(NETWORKS[name], options, folder / str(number))
        for number, name in enumerate(tqdm(options.networks, desc='building', unit='network'))
    }
    files = {f'{name} {kind}': file for name, network in built.items() for kind, file in network.files.items()}
    rows = []
    for threads in options.threads:
        times = measure_latency(files, threads=threads, rounds=options.rounds, warm_up=1)
        first = next(iter(built))
        for name, precision in itertools.product(built, PRECISIONS):
            rows.append(_row(name, precision, threads, built[name], built[first], times, f'{first} fp32'))
    return rows


def _build(architecture: dict[str, str], options: argparse.Namespace, folder: Path) -> Built:
    width, height = options.size
    torch.manual_seed(0)
    classes = [f'class {number}' for number in range(options.classes)]
    network = build_network({'family': 'yolov4', **architecture}, classes).eval()
    files = {precision: folder / f'{precision}.onnx' for precision in PRECISIONS}
    export(network, width, height, files['fp32'])
    numbers = np.random.default_rng(0)
    images = [numbers.integers(0, 256, (height, width, 3), np.uint8) for _ in range(CALIBRATION_IMAGES)]
    quantize(files['fp32'], files['int8'], images, QuantizeSettings())
    return Built(parameter_count(network), mebibytes(network), files)


def _row(
    name: str, precision: str, threads: int, built: Built, first: Built, times: dict[str, Latency], reference: str
) -> dict[str, Any]:
    latency, slowest, own = times[f'{name} {precision}'], times[reference], times[f'{name} fp32']
    file = built.files[precision].stat().st_size
    return {
        'network': name,
        'precision': precision,
        'threads': threads,
        'parameters': built.parameters,
        'parameters_mib': built.mib,
        'times_smaller': first.mib / built.mib,
        'file_mib': file / 2**20,
        'file_times_smaller': first.files['fp32'].stat().st_size / file,
        'ms': latency.median,
        'ms_quartiles': [latency.low, latency.high],
        'cpu_ms': latency.cpu,
        'times_quicker': slowest.median / latency.median,
        'times_less_cpu': slowest.cpu / latency.cpu,
        'times_less_cpu_than_own_fp32': own.cpu / latency.cpu,
    }


def markdown(results: dict[str, Any]) -> str:
    """The machine, and one table a number of threads."""
    parts = [report.machine_line(results['machine'])]
    heads: tuple[str, ...] = ('network', 'precision', 'parameters', 'MiB of parameters', 'MiB of the file')
    heads += ('ms', 'quartiles', 'CPU ms', 'times quicker', 'times less CPU', 'times less CPU than its FP32')
    width, height = results['options']['size']
    for threads in dict.fromkeys(row['threads'] for row in results['rows']):
        rows = [_cells(row) for row in results['rows'] if row['threads'] == threads]
        rounds = results['options']['rounds']
        title = f'{width}×{height}, {threads} thread{"s" if threads > 1 else ""}; medians of {rounds} rounds'
        parts.append(f'**{title}**\n\n' + report.table(heads, rows))
    return '\n\n'.join(parts)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    low, high = row['ms_quartiles']
    return (
        row['network'],
        row['precision'],
        f'{row["parameters"]:,}',
        f'{row["parameters_mib"]:.2f} ({row["times_smaller"]:.2f}× smaller)',
        f'{row["file_mib"]:.2f} ({row["file_times_smaller"]:.2f}×)',
        f'{row["ms"]:.0f}',
        f'{low:.0f} … {high:.0f}',
        f'{row["cpu_ms"]:.0f}',
        f'{row["times_quicker"]:.2f}',
        f'{row["times_less_cpu"]:.2f}',
        f'{row["times_less_cpu_than_own_fp32"]:.2f}',
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks.yolov4',
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--networks', nargs='+', choices=NETWORKS, default=list(NETWORKS), metavar='NAME')
    parser.add_argument('--classes', type=int, default=80, help='how many; %(default)s by default')
    parser.add_argument('--size', type=int, nargs=2, default=[416, 416], metavar=('WIDTH', 'HEIGHT'))
    parser.add_argument('--rounds', type=int, default=8, help='timed inferences of each; %(default)s by default')
    parser.add_argument('--threads', type=int, nargs='+', default=[1], help='of an inference')
    parser.add_argument('--out', type=Path, default=Path('out') / 'bench', help='folder; %(default)s by default')
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(main())
