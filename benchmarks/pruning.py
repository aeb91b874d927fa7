"""How much quicker a pruned detector runs on this CPU, in FP32 and INT8: `python -m benchmarks.pruning`.

Weights are random: time depends on the structure alone. All networks take turns within one run, so that other load on the
machine falls on all alike.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from benchmarks import random_networks, report
from benchmarks.random_networks import PRECISIONS, write_files
from training.models.weights import build_network
from training.prune.cost import Cost, Latency, cost, measure_latency
from training.prune.pruning import prune
from training.prune.settings import PruneSettings

ACTIVATIONS = {'silu': 'nn.SiLU()', 'relu': 'nn.ReLU()'}
EPILOG = """\
examples:
  python -m benchmarks.pruning
  python -m benchmarks.pruning --architecture yolov8n.yaml --classes 5 --size 640 480 --rounds 50
  python -m benchmarks.pruning --ratios 0.3 0.5 0.6 --round-to 8 16 --threads 1 2
"""


@dataclass(frozen=True)
class Variant:
    """One structure to be timed.

    Attributes:
        activation: silu or relu.
        ratio: the share of the channels that is pruned; 0 is the whole network.
        round_to: what group sizes are multiples of.
    """

    activation: str
    ratio: float
    round_to: int

    @property
    def name(self) -> str:
        """As the table calls it."""
        return f'{self.activation}, whole' if not self.ratio else f'{self.activation}, {self.ratio:g}, {self.round_to}'


def main() -> int:
    """Build, export, quantize and time; nothing else should run on the machine meanwhile."""
    options = _options()
    warnings.filterwarnings('ignore', category=DeprecationWarning)
    return random_networks.run('pruning', options, _measure, markdown)


def _measure(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    costs: dict[Variant, Cost] = {}
    files: dict[str, Path] = {}
    for variant in tqdm(list(variants(options)), desc='building', unit='network'):
        costs[variant], made = _build(variant, options, folder / f'{len(costs)}')
        files |= {f'{variant.name}, {precision}': file for precision, file in made.items()}
    rows = []
    for threads in options.threads:
        times = measure_latency(files, threads=threads, rounds=options.rounds)
        whole = times[f'{next(iter(costs)).name}, fp32']
        for variant, precision in itertools.product(costs, PRECISIONS):
            rows.append(_row(variant, precision, threads, costs, times[f'{variant.name}, {precision}'], whole))
    return rows


def variants(options: argparse.Namespace) -> Iterator[Variant]:
    """The whole network with each activation, and each way of pruning it; the first is what all are compared with."""
    for activation in options.activations:
        yield Variant(activation, 0.0, 1)
        for ratio, round_to in itertools.product(options.ratios, options.round_to):
            yield Variant(activation, ratio, round_to)


def _build(variant: Variant, options: argparse.Namespace, folder: Path) -> tuple[Cost, dict[str, Path]]:
    width, height = options.size
    classes = [f'class {number}' for number in range(options.classes)]
    torch.manual_seed(0)
    architecture: Any = build_network(options.architecture, classes).yaml
    network: nn.Module = build_network(architecture | {'activation': ACTIVATIONS[variant.activation]}, classes).eval()
    counted = cost(network, width, height)
    if variant.ratio:
        settings = PruneSettings(method='random', ratio=variant.ratio, round_to=variant.round_to)
        pruned = prune(network, settings, width, height)
        network, counted = pruned.network, pruned.after
    return counted, write_files(network, width, height, folder)


def _row(
    variant: Variant, precision: str, threads: int, costs: dict[Variant, Cost], latency: Latency, whole: Latency
) -> dict[str, Any]:
    counted, first = costs[variant], next(iter(costs.values()))
    return {
        **asdict(variant),
        'precision': precision,
        'threads': threads,
        'parameters': counted.parameters,
        'parameters_change': counted.parameters / first.parameters - 1,
        'gflops': counted.gflops,
        'ms': latency.median,
        'ms_quartiles': [latency.low, latency.high],
        'cpu_ms': latency.cpu,
        'times_quicker': whole.median / latency.median,
        'times_less_cpu': whole.cpu / latency.cpu,
    }


def markdown(results: dict[str, Any]) -> str:
    """The machine, and one table a number of threads."""
    parts = [report.machine_line(results['machine'])]
    heads: tuple[str, ...] = (
        'activation',
        'pruned',
        'multiples of',
        'precision',
        'parameters',
        'GFLOPs',
        'ms',
        'quartiles',
        'CPU ms',
    )
    heads += ('times quicker', 'times less CPU')
    for threads in dict.fromkeys(row['threads'] for row in results['rows']):
        rows = [_cells(row) for row in results['rows'] if row['threads'] == threads]
        title = f'{threads} thread{"s" if threads > 1 else ""}; medians of {results["options"]["rounds"]} rounds'
        parts.append(f'**{title}**\n\n' + report.table(heads, rows))
    return '\n\n'.join(parts)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    low, high = row['ms_quartiles']
    return (
        row['activation'],
        f'{row["ratio"]:.0%}' if row['ratio'] else 'whole',
        str(row['round_to']) if row['ratio'] else '–',
        row['precision'],
        f'{row["parameters"]:,} ({row["parameters_change"]:+.1%})',
        f'{row["gflops"]:.1f}',
        f'{row["ms"]:.1f}',
        f'{low:.1f} … {high:.1f}',
        f'{row["cpu_ms"]:.1f}',
        f'{row["times_quicker"]:.2f}',
        f'{row["times_less_cpu"]:.2f}',
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks.pruning',
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--architecture', default='yolov8m.yaml', help='a name of Ultralytics or a yaml file')
    parser.add_argument('--classes', type=int, default=10, help='how many')
    parser.add_argument(
        '--size', type=int, nargs=2, default=[640, 640], metavar=('WIDTH', 'HEIGHT'), help='of the input'
    )
    parser.add_argument('--ratios', type=float, nargs='+', default=[0.5], help='shares of the channels that go')
    parser.add_argument(
        '--round-to', type=int, nargs='+', default=[8, 16, 32], help='multiples that group sizes become'
    )
    parser.add_argument(
        '--activations',
        nargs='+',
        choices=ACTIVATIONS,
        default=list(ACTIVATIONS),
        help='of all layers; the first is compared with',
    )
    parser.add_argument('--threads', type=int, nargs='+', default=[1], help='of ONNX Runtime')
    parser.add_argument('--rounds', type=int, default=21, help='each times every network once')
    parser.add_argument('--out', type=Path, default=Path('out') / 'bench', help='folder for pruning.json, pruning.md')
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(main())
