"""`python -m benchmarks`: measure this machine, write out/bench/bench.json and print markdown tables."""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path
from typing import Any

from benchmarks import core_path, detector, evaluation, machine, report
from kd_perception.bundles.bundle import find_bundle, load_bundle
from kd_perception.errors import KdPerceptionError

REPOSITORY = Path(__file__).resolve().parents[1]
PARTS = ('core', 'detector', 'evaluation', 'node')


def main() -> int:
    """Measure the parts asked for; nothing else should run on the machine meanwhile."""
    options = _options()
    results: dict[str, Any] = {'machine': machine.describe()}
    try:
        if 'core' in options.parts:
            _say('core path')
            results['core_path'] = core_path.measure()
        if 'detector' in options.parts:
            _say('detector')
            results['detector'] = detector.measure(load_bundle(find_bundle(options.model)))
        if 'evaluation' in options.parts:
            _say('evaluation')
            results['evaluation'] = evaluation.measure(load_bundle(find_bundle(options.model)))
        if 'node' in options.parts or options.soak:
            results |= _node_results(options)
    except (KdPerceptionError, RuntimeError) as error:
        print(f'benchmarks: {error}', file=sys.stderr)
        return 1
    report.publish('bench', results, report.markdown(results), options.out)
    return 0


def _node_results(options: argparse.Namespace) -> dict[str, Any]:
    try:
        from benchmarks import node
    except ImportError as error:
        raise RuntimeError(f'the node needs ROS 2 ({error}); measure without: --parts core detector') from error
    node.prepare_environment(REPOSITORY)
    results: dict[str, Any] = {}
    if 'node' in options.parts:
        results['node'] = []
        for size in node.SIZES:
            for precision, rate in itertools.product(options.precisions, options.rates):
                _say(f'node at {size[0]}x{size[1]}, {rate:g} Hz, {precision}')
                run = node.Run(options.model, precision, options.threads, size, rate)
                results['node'].append(node.measure(run, options.seconds))
    if options.soak:
        _say(f'memory over {options.soak:g} minutes')
        run = node.Run(options.model, options.precisions[0], options.threads, node.SIZES[0], options.rates[0])
        results['soak'] = node.soak(run, options.soak)
    return results


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='python -m benchmarks', description=__doc__)
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=list(PARTS), help='what to measure')
    parser.add_argument('--model', default='aerial_traffic', help='bundle: a folder or the name of an installed one')
    parser.add_argument('--precisions', nargs='+', default=['auto'], help='artifacts that the node runs')
    parser.add_argument('--threads', type=int, default=0, help='of the node; 0: one per physical core')
    parser.add_argument(
        '--rates', nargs='+', type=float, default=[30.0], metavar='HZ', help="the camera's frames a second"
    )
    parser.add_argument('--seconds', type=float, default=20.0, help='of each measurement of the node')
    parser.add_argument('--soak', type=float, default=0.0, metavar='MINUTES', help="follow the node's memory so long")
    parser.add_argument(
        '--out', type=Path, default=REPOSITORY / 'out' / 'bench', help='folder for bench.json, bench.md'
    )
    return parser.parse_args()


def _say(what: str) -> None:
    print(f'measuring: {what} …', file=sys.stderr, flush=True)


if __name__ == '__main__':
    sys.exit(main())
