"""The steps of all searches for INT8 under a folder: what each repair gave, by network and engine.

python -m training quantize models/mine my_photos --engine all --every-step --work out/int8
python -m benchmarks.int8_steps out/int8
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from training.quantize.search import SearchStep
from training.quantize.search_page import table


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each search."""
    parser = argparse.ArgumentParser('python -m benchmarks.int8_steps', description=__doc__.splitlines()[0])
    parser.add_argument('work', type=Path, help='what --work of `training quantize` was')
    folder = parser.parse_args(arguments).work
    records = sorted(folder.glob('*/steps.json'))
    if not records:
        print(f'{folder}: no search has ended there (no SEARCH/steps.json)', file=sys.stderr)
        return 1
    for record in records:
        network, engine, _ = record.parent.name.rsplit('-', 2)
        steps = [SearchStep.of(values, record.parent) for values in json.loads(record.read_text(encoding='utf-8'))]
        print(f'{network}, {engine}:\n\n{table(steps)}\n')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
