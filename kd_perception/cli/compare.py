"""`kd_perception compare`: several reports in one table and one Pareto picture."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kd_perception.report.compare import as_text, differences, read_reports, write_comparison


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `compare`."""
    parser = commands.add_parser(
        'compare',
        help='several reports in one table and one Pareto picture',
        description='Sets reports of `kd_perception evaluate` side by side and says what about them cannot be compared.',
        epilog='example: kd_perception compare out/int8 out/fp32 --out out/compare',
    )
    parser.add_argument('reports', nargs='+', type=Path, metavar='REPORT', help='report.json or a folder that holds it')
    parser.add_argument(
        '--out',
        type=Path,
        help='also write the table and the picture: a folder that gets compare.html, or an .html file',
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the table, its warnings to stderr, and write the HTML file."""
    reports = read_reports(options.reports)
    warnings = differences(reports)
    for warning in warnings:
        print(f'kd_perception: warning: {warning}', file=sys.stderr)
    print(as_text(reports))
    if options.out:
        page = options.out if options.out.suffix == '.html' else options.out / 'compare.html'
        write_comparison(reports, warnings, page)
        print(f'\n{page}')
    return 0
