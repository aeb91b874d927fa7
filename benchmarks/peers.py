"""`python -m benchmarks.peers`: detector nodes beside each other behind the same camera, in alternating rounds.

A peer is any program that publishes an answer with the image's own header for every image that it works on:

    python -m benchmarks.peers --ours fp32=aerial_traffic,precision=fp32,engine=openvino \\
        --peer 'other=ros2 run other_package detector' --topic other=/yolo/detections --type other=yolo_msgs.msg.DetectionArray

Name the engine: `auto` may take another network of the family, if that keeps the budget and this does not. A peer's image
topic has to be `image`, by its own options or `--ros-args -r`.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.node import Node

from benchmarks import machine, node, processes, report

REPOSITORY = Path(__file__).resolve().parents[1]
OUR_TYPE = 'vision_msgs.msg.Detection2DArray'
FIGURES = ('fps', 'age_ms', 'age_p95_ms', 'cores', 'memory_mb')


@dataclass(frozen=True)
class Contender:
    """A detector node: its command, and the topic and type of its answers."""

    name: str
    command: list[str]
    topic: str
    type: str


class Listener(Node):  # type: ignore[misc]  # Any, for mypy
    """Notes when each answer came, and how old its image was by then."""

    def __init__(self, contender: Contender) -> None:
        super().__init__('benchmark_listener')
        self.answers: list[tuple[float, float]] = []
        module, _, name = contender.type.rpartition('.')
        self.create_subscription(getattr(importlib.import_module(module), name), contender.topic, self._on_answer, 10)

    def _on_answer(self, message: Any) -> None:
        stamp = message.header.stamp
        age = self.get_clock().now().nanoseconds - (stamp.sec * 1_000_000_000 + stamp.nanosec)
        self.answers.append((time.monotonic(), age / 1e6))


def measure(contender: Contender, size: tuple[int, int], rate: float, seconds: float) -> dict[str, float]:
    """One round: frames a second, age of the image at arrival, busy cores and resident memory of the contender."""
    with (
        processes.camera(size, rate),
        processes.spun(lambda: Listener(contender)) as listener,
        processes.running(contender.command) as process,
    ):
        processes.wait_for_answer(lambda: listener.answers, process, contender.name)
        time.sleep(5.0)  # caches, threads and the middleware's buffers settle
        busy, began, first = cpu_seconds(process.pid), time.monotonic(), len(listener.answers)
        time.sleep(seconds)
        answers, elapsed = listener.answers[first:], time.monotonic() - began
        cores = (cpu_seconds(process.pid) - busy) / elapsed
        memory = sum(node.memory_mb(pid)['resident'] for pid in family(process.pid))
    ages = np.array([age for _, age in answers] or [np.nan])
    p50, p95 = np.percentile(ages, [50, 95])
    return {
        'fps': len(answers) / elapsed,
        'age_ms': float(p50),
        'age_p95_ms': float(p95),
        'cores': cores,
        'memory_mb': memory,
    }


def family(pid: int) -> list[int]:
    """A process and all that it has started."""
    children = Path(f'/proc/{pid}/task/{pid}/children').read_text().split()
    return [pid, *(descendant for child in children for descendant in family(int(child)))]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and all that it has started."""
    ticks = 0
    for member in family(pid):
        fields = Path(f'/proc/{member}/stat').read_text().rpartition(')')[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf('SC_CLK_TCK')


def markdown(results: dict[str, Any]) -> str:
    """Medians over the rounds, and how many times the frames of the first peer, each round compared with its own."""
    rounds: dict[str, list[dict[str, float]]] = results['rounds']
    base = results['base']
    rows = []
    for name, measured in rounds.items():
        ratios = [row['fps'] / other['fps'] for row, other in zip(measured, rounds[base], strict=True)]
        fps, age, p95, cores, memory = (statistics.median(row[key] for row in measured) for key in FIGURES)
        times = f'{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})'
        rows.append((name, f'{fps:.1f}', times, f'{age:.0f}', f'{p95:.0f}', f'{cores:.2f}', f'{memory:.0f}'))
    width, height = results['size']
    title = f'**{width}x{height} bgr8, camera at {results["rate"]:g} Hz, {len(rounds[base])} alternating rounds of '
    title += f'{results["seconds"]:g} s, medians**'
    head = ('node', 'frames/s', f"times {base}'s", 'stamp → arrival ms', 'p95', 'busy cores', 'memory MB')
    return '\n\n'.join([report.machine_line(results['machine']), title, report.table(head, rows)])


def main() -> int:
    """Measure and print."""
    options = _options()
    contenders = [*map(_peer(options), options.peer), *map(_ours, options.ours)]
    node.prepare_environment(REPOSITORY)
    rounds: dict[str, list[dict[str, float]]] = {contender.name: [] for contender in contenders}
    size = (options.width, options.height)
    described = machine.describe()
    for number in range(options.rounds):
        for contender in contenders if number % 2 == 0 else contenders[::-1]:
            try:
                row = measure(contender, size, options.rate, options.seconds)
            except RuntimeError as error:
                raise SystemExit(f'benchmarks.peers: {error}') from error
            rounds[contender.name].append(row)
            print(f'round {number + 1}, {contender.name}: ', end='', file=sys.stderr)
            print(', '.join(f'{key} {value:.2f}' for key, value in row.items()), file=sys.stderr, flush=True)
    results = {
        'machine': described,
        'rounds': rounds,
        'base': contenders[0].name,
        'size': size,
        'rate': options.rate,
        'seconds': options.seconds,
        'commands': {contender.name: contender.command for contender in contenders},
    }
    report.publish('peers', results, markdown(results), options.out)
    return 0


def _ours(text: str) -> Contender:
    """`name=model[,parameter=value …]`."""
    name, _, rest = text.partition('=')
    model, *settings = rest.split(',')
    command = processes.detector_command({'model': model, **dict(setting.split('=', 1) for setting in settings)})
    return Contender(name, command, 'detections', OUR_TYPE)


def _peer(options: argparse.Namespace) -> Callable[[str], Contender]:
    topics, types = (dict(text.split('=', 1) for text in given) for given in (options.topic, options.type))

    def make(text: str) -> Contender:
        name, command = text.split('=', 1)
        return Contender(name, shlex.split(command), topics.get(name, 'detections'), types.get(name, OUR_TYPE))

    return make


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks.peers', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--peer', action='append', default=[], metavar='NAME=COMMAND', help='another detector node')
    parser.add_argument('--topic', action='append', default=[], metavar='NAME=TOPIC', help='of its answers')
    parser.add_argument('--type', action='append', default=[], metavar='NAME=TYPE', help='of its answers')
    parser.add_argument('--ours', action='append', default=[], metavar='NAME=MODEL[,PARAMETER=VALUE…]')
    parser.add_argument('--width', type=int, default=640)
    parser.add_argument('--height', type=int, default=480)
    parser.add_argument('--rate', type=float, default=60.0, help="the camera's frames a second")
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--seconds', type=float, default=10.0, help='of each measurement')
    parser.add_argument(
        '--out', type=Path, default=REPOSITORY / 'out' / 'peers', help='folder for peers.json, peers.md'
    )
    options = parser.parse_args()
    if not options.peer + options.ours:
        parser.error('name at least one node: --peer or --ours')
    return options


if __name__ == '__main__':
    sys.exit(main())
