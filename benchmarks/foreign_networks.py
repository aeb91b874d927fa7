"""Public networks as bundles, as `bundle create` makes them, and their accuracy: `python -m benchmarks.foreign_networks`.

The folder holds ONNX files and Darknet configurations of networks that know the data set's classes. One that cannot be imported
is a row with the reason.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import publish
from kd_perception.bundles.foreign.class_names import class_names
from kd_perception.bundles.foreign.options import ImportOptions
from kd_perception.errors import KdPerceptionError
from kd_perception.selection.importing import import_network
from training.data.root import data_set
from training.errors import TrainingError
from training.measure import measure_bundle

SUFFIXES = ('.onnx', '.cfg')


@dataclass(frozen=True)
class Row:
    """One file.

    Attributes:
        file: its name.
        read_as: what `bundle create` found it to be; empty where it refused.
        input: size and colors of the input.
        map50, map: measured accuracy, 0 … 1.
        refusal: why it was not imported.
    """

    file: str
    read_as: str = ''
    input: str = ''
    map50: float = 0.0
    map: float = 0.0
    refusal: str = ''

    def cells(self) -> str:
        """As a line of a markdown table."""
        if self.refusal:
            return f'| `{self.file}` | refused: {self.refusal} | | | |'
        return f'| `{self.file}` | {self.read_as} | {self.input} | {100 * self.map50:.1f} | {100 * self.map:.1f} |'


def measure(file: Path, dataset: Path, classes: Sequence[str], threads: int) -> Row:
    """Import a file without an option but the classes, and measure the bundle on the data set's `val`."""
    with tempfile.TemporaryDirectory(prefix='foreign_networks_') as scratch:
        options = ImportOptions(classes=tuple(classes))
        try:
            imported = import_network(file, Path(scratch) / 'bundle', options)
        except KdPerceptionError as error:
            return Row(file.name, refusal=str(error))
        found = dict(imported.lines)
        accuracy = measure_bundle(imported.bundle, 'auto', dataset, threads=threads)
        return Row(file.name, found['output'], found['input'], accuracy.map50, accuracy.map)


def table(rows: Sequence[Row]) -> str:
    """The rows as markdown."""
    head = ['| file | read as | input | AP50 | AP |', '|---|---|---|---:|---:|']
    return '\n'.join([*head, *(row.cells() for row in rows)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Import and measure every network of a folder."""
    parser = argparse.ArgumentParser('python -m benchmarks.foreign_networks', description=__doc__)
    parser.add_argument('folder', type=Path, help='folder with .onnx files, and .cfg with .weights')
    parser.add_argument('dataset', type=Path, help='folder with images/ and labels/, or its name in the data root')
    parser.add_argument('--classes', default='coco', help='as `bundle create` takes them; %(default)s by default')
    parser.add_argument('--data', type=Path, help='data root; $KD_DATA or ../shared/data by default')
    parser.add_argument('--threads', type=int, default=1, help='CPU threads; %(default)s by default')
    parser.add_argument('--out', type=Path, default=Path('out/bench'), help='folder; %(default)s by default')
    options = parser.parse_args(arguments)
    try:
        dataset = data_set(options.dataset, options.data)
        files = sorted(file for file in options.folder.glob('*') if file.suffix in SUFFIXES)
        classes = class_names(options.classes)
        rows = [measure(file, dataset, classes, options.threads) for file in files]
    except (KdPerceptionError, TrainingError, OSError) as error:
        print(f'foreign_networks: {error}', file=sys.stderr)
        return 1
    publish('foreign_networks', {'rows': [vars(row) for row in rows]}, table(rows), options.out)
    return 0


if __name__ == '__main__':
    sys.exit(main())
