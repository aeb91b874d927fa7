"""Size and CPU time of YOLOv4, M-YOLO and RV-YOLO, in FP32 and INT8: `python -m benchmarks.yolov4`.

Weights are random: size and time depend on the architecture alone. All networks take turns within one run, so that other load on
the machine falls on all alike.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks import random_networks, report
from benchmarks.random_networks import PRECISIONS, write_files
from training.models.weights import build_network
from training.models.yolov4.backbones import mebibytes, parameter_count
from training.prune.cost import Latency, measure_latency

NETWORKS = {
    'YOLOv4': {'backbone': 'cspdarknet53', 'neck': 'full'},
    'M-YOLO': {'backbone': 'mobilenet_v2', 'neck': 'depthwise'},
    'M-YOLO light': {'backbone': 'mobilenet_v2', 'neck': 'light'},
    'RV-YOLO': {'backbone': 'repvit_m1_1', 'neck': 'full'},
    'RV-YOLO light': {'backbone': 'repvit_m0_9', 'neck': 'depthwise'},
}
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
    return random_networks.run('yolov4', options, _measure, markdown)


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
    return Built(parameter_count(network), mebibytes(network), write_files(network, width, height, folder))


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
