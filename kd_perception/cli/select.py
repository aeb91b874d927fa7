"""`kd_perception select`: what `engine: auto` would run on this machine, and why, without a node."""

from __future__ import annotations

import argparse
import json
import sys

from kd_perception.bundles.bundle import find_bundle, load_bundle
from kd_perception.cli.detector_options import image_size
from kd_perception.engines.options import EngineOptions
from kd_perception.selection.selection import Request, Selection, select

EXIT_OVER_BUDGET = 2


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `select`."""
    default = Request()
    parser = commands.add_parser(
        'select',
        help='show which model and engine fits a latency budget here, and why',
        description=(
            'Times the bundles of a family on every engine that is installed, most accurate first, and takes the most '
            'accurate whose 95th percentile of preprocess + infer + postprocess fits the budget: what the node does with '
            'engine: auto. Timings are kept, so that the node starts at once afterwards, and another budget costs nothing.'
        ),
        epilog=(
            'Exit status: 0, 1 on errors, 2 when nothing fits. Examples: '
            'kd_perception select aerial_traffic --budget 20 · '
            'kd_perception select aerial_traffic --budget 50 --image 1920x1080 --measure-again'
        ),
    )
    add = parser.add_argument
    add('bundle', nargs='?', default='aerial_traffic', help='folder or name (default: %(default)s)')
    add('--budget', type=float, default=default.budget_ms, metavar='MS', help='milliseconds (default: %(default)g)')
    add('--precision', default=default.precision, help='auto, fp32, int8, … (default: %(default)s)')
    add('--max-map-drop', type=float, default=default.max_map_drop, help='accuracy gate (default: %(default)s)')
    add('--threads', type=int, default=0, help='CPU threads of one inference; 0: all cores')
    add('--image', type=image_size, metavar='WIDTHxHEIGHT', help="of the camera (default: the bundle's input)")
    add('--alone', action='store_true', help='only this bundle, not its family')
    add('--measure-again', action='store_true', help='do not use what was measured before')
    add('--json', action='store_true', help='for other programs')
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Select and print."""
    request = Request(
        precision=options.precision,
        max_map_drop=options.max_map_drop,
        budget_ms=options.budget,
        options=EngineOptions(threads=options.threads),
        image_size=options.image,
        family=not options.alone,
        measure_again=options.measure_again,
    )
    selection = select(load_bundle(find_bundle(options.bundle)), request, lambda line: print(line, file=sys.stderr))
    print(_json(selection) if options.json else selection.table())
    return 0 if selection.within_budget else EXIT_OVER_BUDGET


def _json(selection: Selection) -> str:
    rows = [
        {
            'model': row.candidate.bundle.name,
            'engine': row.candidate.engine,
            'artifact': row.candidate.artifact.precision,
            'precision': row.candidate.precision,
            'map': row.candidate.artifact.measured_map,
            'p50_ms': row.timing.p50_ms if row.timing else None,
            'p95_ms': row.timing.p95_ms if row.timing else None,
            'verdict': row.verdict,
            'chosen': row.chosen,
        }
        for row in selection.rows
    ]
    document = {'reason': selection.reason, 'within_budget': selection.within_budget, 'rows': rows}
    return json.dumps(document, indent=1, ensure_ascii=False)
