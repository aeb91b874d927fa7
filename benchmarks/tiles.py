"""What tiles bring and what they cost: accuracy and latency, whole frame and grids side by side: `python -m benchmarks.tiles`.

Photographs of one size are measured together; with --mosaic they are laid side by side as well, for frames much larger than the
network's input. All grids take turns on every frame, so that other load on the machine falls on all alike.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks import machine, report
from kd_perception import engines
from kd_perception.bundles.bundle import Bundle, find_bundle, load_bundle
from kd_perception.cli.detector_options import image_size
from kd_perception.detection.detections import Detections
from kd_perception.detection.detector import Detector
from kd_perception.detection.engine import Engine
from kd_perception.detection.tiles import Tiling, parse
from kd_perception.engines.options import EngineOptions
from kd_perception.errors import KdPerceptionError
from kd_perception.metrics.accuracy import measure as measure_accuracy
from training.data.dataset import LabeledImage, read_split
from training.data.root import data_root
from training.errors import TrainingError
from training.measure import LOWEST_SCORE

GRIDS = ('off', '2x1', '2x2', '2x2+whole', '3x2', '3x2+whole')
MOSAIC_GRIDS = ('off', '2x2', '3x3', '4x4', '5x5', '5x5+whole')
EPILOG = """\
examples:
  python -m benchmarks.tiles
  python -m benchmarks.tiles --mosaic 3x6                          frames as large as 18 photographs besides
  python -m benchmarks.tiles --grids off 2x2 2x2+whole --overlap 0.2 --class car
"""


@dataclass(frozen=True)
class Frames:
    """Frames that are measured together.

    Attributes:
        title: what they are.
        images: the frames with their objects.
        grids: how they are cut.
        most: detections a frame.
    """

    title: str
    images: tuple[LabeledImage, ...]
    grids: tuple[str, ...]
    most: int


@dataclass
class Row:
    """What was measured with one grid.

    Attributes:
        grid: as the user writes it.
        found: detections of each frame.
        times: milliseconds, and milliseconds of CPU, of each frame and round.
        passes: how many a frame took.
        scales: at how many network pixels per frame pixel.
    """

    grid: str
    found: list[Detections] = field(default_factory=list)
    times: list[tuple[float, float]] = field(default_factory=list)
    passes: set[int] = field(default_factory=set)
    scales: set[float] = field(default_factory=set)

    @classmethod
    def joined(cls, rows: Sequence[Row]) -> Row:
        """What was measured with one grid on frames of several sizes."""
        whole = cls(rows[0].grid)
        for row in rows:
            whole.found += row.found
            whole.times += row.times
            whole.passes |= row.passes
            whole.scales |= row.scales
        return whole


def main() -> int:
    """Detect, measure and print; nothing else should run on the machine meanwhile."""
    options = _options()
    results: dict[str, Any] = {'machine': machine.describe(), 'overlap': options.overlap, 'class': options.class_name}
    try:
        bundle = load_bundle(find_bundle(options.model))
        artifact = bundle.artifact('onnxruntime', options.precision)
        bundle = bundle.operated_as(artifact)
        engine = engines.load(bundle, artifact, EngineOptions(threads=options.threads))
        images = list(read_split(data_root(options.data) / options.dataset, options.split))
        results |= {'network': f'{bundle.name} {artifact.precision}', 'threads': options.threads}
        results['input'] = [bundle.input.width, bundle.input.height]
        results['frames'] = _measure_all(bundle, engine, images, options)
        engine.close()
    except (KdPerceptionError, TrainingError) as error:
        print(f'benchmarks.tiles: {error}', file=sys.stderr)
        return 1
    report.publish('tiles', results, markdown(results), options.out)
    return 0


def _measure_all(
    bundle: Bundle, engine: Engine, images: Sequence[LabeledImage], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Photographs size by size, all of them together, and mosaics of each size for which there are enough."""
    measured: list[tuple[Frames, list[Row]]] = []
    mosaics: list[tuple[Frames, list[Row]]] = []
    most = bundle.output.max_detections
    for size, group in groupby(sorted(images, key=_size), key=_size):
        same = tuple(group)
        frames = Frames(f'{len(same)} of {size[0]}x{size[1]}', same, tuple(options.grids), most)
        measured.append((frames, measure(bundle, engine, frames, options.overlap, options.rounds)))
        large = mosaic_frames(same, options.mosaic, tuple(options.mosaic_grids), most) if options.mosaic else None
        if large:
            mosaics.append((large, measure(bundle, engine, large, options.overlap, options.rounds)))
    if len(measured) > 1:
        everything = tuple(image for frames, _ in measured for image in frames.images)
        frames = Frames(f'All {len(everything)} photographs', everything, tuple(options.grids), most)
        measured.insert(0, (frames, [Row.joined(rows) for rows in zip(*(rows for _, rows in measured), strict=True)]))
    return [_table(bundle, frames, rows) for frames, rows in [*measured, *mosaics]]


def mosaic_frames(
    images: Sequence[LabeledImage], grid: tuple[int, int], grids: tuple[str, ...], most: int
) -> Frames | None:
    """As many mosaics as photographs of one size suffice for; None where that is none."""
    count = grid[0] * grid[1]
    made = [mosaic(images[n : n + count], grid[0]) for n in range(0, len(images) - count + 1, count)]
    if not made:
        return None
    width, height = _size(made[0])
    title = f'{len(made)} of {width}x{height}, of {count} photographs each'
    return Frames(title, tuple(made), grids, most * count)


def _size(image: LabeledImage) -> tuple[int, int]:
    return image.image.shape[1], image.image.shape[0]


def mosaic(images: Sequence[LabeledImage], columns: int) -> LabeledImage:
    """Photographs of one size side by side, row by row, with all that is known of them."""
    width, height = _size(images[0])
    rows = [np.concatenate([i.image for i in images[n : n + columns]], axis=1) for n in range(0, len(images), columns)]
    corners = [np.array([n % columns * width, n // columns * height] * 2, np.float32) for n in range(len(images))]
    return LabeledImage(
        'mosaic',
        np.concatenate(rows),
        _laid_out([image.objects for image in images], corners),
        _laid_out([image.crowds for image in images], corners),
        np.concatenate([image.ignored + corner for image, corner in zip(images, corners, strict=True)]),
    )


def _laid_out(parts: Sequence[Detections], corners: Sequence[np.ndarray]) -> Detections:
    boxes = [part.boxes + corner for part, corner in zip(parts, corners, strict=True)]
    return Detections(
        np.concatenate(boxes),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.class_ids for part in parts]),
    )


def measure(bundle: Bundle, engine: Engine, frames: Frames, overlap: float, rounds: int) -> list[Row]:
    """One row a grid: nearly everything is detected for the accuracy, and times are those at the artifact's own threshold."""
    everything = bundle.thresholds.down_to(LOWEST_SCORE)
    detectors = [
        Detector(bundle, engine, max_detections=frames.most, tiling=parse(grid, overlap)) for grid in frames.grids
    ]
    rows = [Row(grid) for grid in frames.grids]
    detectors[0].warm_up(10)
    network = bundle.input.width, bundle.input.height
    for number, image in enumerate(tqdm(frames.images, desc=frames.title, unit='frame')):
        for detector, row in zip(detectors, rows, strict=True):
            detector.thresholds = everything
            row.found.append(detector.detect(image.image)[0])
            detector.thresholds = bundle.thresholds
            plan = (detector.tiling or Tiling((1, 1))).plan(_size(image), network)
            row.passes.add(len(plan.passes))
            row.scales.add(round(plan.scale, 2))
        for turn in range(rounds):
            first = (number + turn) % len(rows)
            for n in [*range(first, len(rows)), *range(first)]:
                rows[n].times.append(_timed(detectors[n], image))
    return rows


def _timed(detector: Detector, image: LabeledImage) -> tuple[float, float]:
    """Milliseconds, and milliseconds of CPU."""
    cpu = time.process_time()
    _, stages = detector.detect(image.image)
    return stages.preprocess + stages.infer + stages.postprocess, 1e3 * (time.process_time() - cpu)


def _table(bundle: Bundle, frames: Frames, rows: Sequence[Row]) -> dict[str, Any]:
    truth = [image.truth() for image in frames.images]
    score = bundle.thresholds.score
    return {
        'title': frames.title,
        'rows': [
            {
                'tiles': row.grid,
                'passes': sorted(row.passes),
                'scale': sorted(row.scales),
                'accuracy': measure_accuracy(
                    row.found, truth, bundle.classes, score_threshold=score, max_detections=frames.most
                ).to_json(),
                'ms': float(np.median(row.times, axis=0)[0]),
                'cpu_ms': float(np.median(row.times, axis=0)[1]),
            }
            for row in rows
        ],
    }


def markdown(results: dict[str, Any]) -> str:
    """The machine, the network, and a table for each set of frames."""
    name, size = results['class'], results['input']
    head = (
        *('tiles', 'passes', 'scale', 'mAP50', 'mAP50-95', f'{name} mAP50', f'{name} mAP50-95', 'precision', 'recall'),
        *('median ms', 'CPU ms', 'times the whole'),
    )
    parts = [
        report.machine_line(results['machine']),
        f'{results["network"]} at {size[0]}x{size[1]} on ONNX Runtime, {results["threads"]} thread(s), overlap '
        f'{results["overlap"]:g}; scale: network pixels per frame pixel; precision and recall at score '
        f'{results["frames"][0]["rows"][0]["accuracy"]["score_threshold"]:g} and IoU 0.5',
    ]
    for frames in results['frames']:
        whole = frames['rows'][0]
        parts.append(
            f'**{frames["title"]}**\n\n' + report.table(head, [_cells(r, whole, name) for r in frames['rows']])
        )
    return '\n\n'.join(parts)


def _cells(row: dict[str, Any], whole: dict[str, Any], name: str) -> tuple[str, ...]:
    accuracy = row['accuracy']
    of_class = accuracy['per_class'].get(name, {})
    percents = [accuracy['map50'], accuracy['map'], of_class.get('map50'), of_class.get('map')]
    percents += [accuracy['precision'], accuracy['recall']]
    return (
        'whole frame' if row['tiles'] == 'off' else row['tiles'],
        ' or '.join(map(str, row['passes'])),
        ' or '.join(f'{scale:.2f}' for scale in row['scale']),
        *('–' if value is None else f'{100 * value:.1f}' for value in percents),
        f'{row["ms"]:.0f}',
        f'{row["cpu_ms"]:.0f}',
        f'{row["ms"] / whole["ms"]:.1f}',
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        'python -m benchmarks.tiles',
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('--model', default='aerial_traffic', help='bundle: a folder or the name of an installed one')
    add('--precision', default='auto', help="of the artifact; the bundle's first by default")
    add('--dataset', default='aerial_traffic', help='name in the data root (default: %(default)s)')
    add('--data', type=Path, help='data root; $KD_DATA or ../shared/data by default')
    add('--split', default='val', help='default: %(default)s')
    add('--class', dest='class_name', default='car', help='that has columns of its own (default: %(default)s)')
    add('--grids', nargs='+', default=GRIDS, help='the first is what all are compared with')
    add('--mosaic', type=image_size, metavar='COLUMNSxROWS', help='lay so many photographs side by side as well')
    add('--mosaic-grids', nargs='+', default=MOSAIC_GRIDS, help='of the mosaics')
    add('--overlap', type=float, default=0.1, help='least share of a tile (default: %(default)s)')
    add('--threads', type=int, default=1, help='of the engine (default: %(default)s)')
    add('--rounds', type=int, default=3, help='how often each frame is timed (default: %(default)s)')
    add('--out', type=Path, default=Path('out/bench'), help='folder for tiles.json, tiles.md (default: %(default)s)')
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(main())
