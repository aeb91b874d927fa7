"""`python -m training quantize`: the INT8 artifact of a bundle that has a float network, measured beside it."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd_perception.bundles.bundle import BUNDLE_FILE
from kd_perception.bundles.bundle_yaml import read
from training.commands import add_dataset, declare
from training.errors import QuantizationError
from training.steps import commit, digest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kd_perception.bundles.bundle import Bundle
    from training.measure import Measurement
    from training.quantize.qdq import QuantizeSettings

PARITY_IMAGES = 16

EPILOG = """\
examples:
  python -m training quantize models/mine my_photos                          ranges from 64 training images
  python -m training quantize models/mine my_photos --method percentile --images 200
  python -m training quantize models/mine my_photos --leave 1,2.cv1          layers that stay in float; see `sensitivity`

The bundle's fp32 artifact stays as it is; its int8 artifact is made anew. Both are measured on the val split, through the
runtime that the robot uses. Nothing is written where INT8 turned out to be another detector.
"""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command."""
    text = 'give a bundle an INT8 artifact, or make it anew'
    parser = declare(commands, 'quantize', text, EPILOG)
    parser.add_argument('bundle', type=Path, help='folder of a bundle with an fp32 artifact for onnxruntime')
    add_dataset(parser)
    parser.add_argument('--images', type=int, default=64, help='calibration images; %(default)s by default')
    parser.add_argument('--method', default='percentile', help='minmax, percentile or entropy; %(default)s by default')
    parser.add_argument('--percentile', type=float, default=99.99, help='share that is kept; %(default)s by default')
    parser.add_argument('--leave', metavar='LAYER,…', help='layers that stay in float')
    parser.set_defaults(command=run)
    return parser


def run(options: argparse.Namespace) -> int:
    """Quantize, hold against the float network, measure, write."""
    from dataclasses import replace

    from kd_perception.bundles.bundle import load_bundle
    from training.data.root import data_set
    from training.quantize.arms_command import leaving
    from training.quantize.qdq import QuantizeSettings

    bundle = load_bundle(options.bundle)
    dataset = data_set(options.dataset, options.data)
    source = bundle.folder / bundle.artifact('onnxruntime', 'fp32').file
    settings = leaving(source, options.leave) if options.leave else QuantizeSettings()
    settings = replace(settings, method=options.method, percentile=options.percentile)
    for line in requantize(bundle, dataset, options.images, settings, str(options.dataset), options.threads):
        print(line, flush=True)
    return 0


def requantize(
    bundle: Bundle, dataset: Path, count: int, settings: QuantizeSettings, called: str, threads: int
) -> list[str]:
    """Give `bundle` an INT8 artifact.

    Args:
        dataset: ranges come from its train split, accuracy from val.
        count: of calibration images.
        called: the data set's name in the bundle.

    Returns:
        What was measured, for people.

    Raises:
        QuantizationError: the network does not take uint8 images as it is.
        ExportError: INT8 is another detector.
    """
    from kd_perception.bundles.bundle import write_bundle
    from training.data.dataset import read_split
    from training.data.spread import images_for
    from training.export.parity import QUANTIZED, bare_bundle, check, detections_of
    from training.measure import measure_artifact, with_file
    from training.quantize import qdq

    float_artifact, spec = bundle.artifact('onnxruntime', 'fp32'), bundle.input
    if (spec.dtype, spec.layout, spec.color) != ('uint8', 'nhwc', 'bgr'):
        raise QuantizationError(
            f'{bundle.name} takes {spec.dtype} {spec.layout} {spec.color}; only graphs of our exporter, uint8 nhwc bgr, '
            'are quantized'
        )
    source, name = bundle.folder / float_artifact.file, f'{bundle.name}_int8.onnx'
    images = images_for(bundle, dataset, 'train', count)
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / name
        left = qdq.quantize(source, made, images, settings)
        sample = [item.image for item in islice(read_split(dataset, 'val'), PARITY_IMAGES)]
        bare = bare_bundle(bundle.classes, spec.width, spec.height)
        found = [detections_of(bare, file, precision, sample) for file, precision in ((source, 'fp32'), (made, 'int8'))]
        parity = check(made, *found, QUANTIZED)
        quantized = with_file(bundle, made, 'int8')
        measured = {
            'int8': measure_artifact(quantized, quantized.artifacts[0], dataset, threads=threads, against=bundle),
            'fp32': measure_artifact(bundle, float_artifact, dataset, threads=threads),
        }
        record = {
            'settings': asdict(settings),
            'calibration_images': len(images),
            'calibration_sha256': qdq.calibration_hash(images),
            'float_nodes': len(left),
            'parity': parity.to_json(),
            'commit': commit(),
        }
        files = {'fp32': float_artifact.file, 'int8': name}
        shutil.copyfile(made, bundle.folder / name)
        write_bundle(bundle.folder, _document(bundle, files, measured, called, record))
    return [f'{precision}\n{result}' for precision, result in measured.items()]


def _document(
    bundle: Bundle, files: Mapping[str, str], measured: Mapping[str, Measurement], called: str, record: dict[str, Any]
) -> dict[str, Any]:
    """bundle.yaml with both artifacts as they were measured now, int8 first; artifacts of other engines stay."""
    document = read(bundle.folder / BUNDLE_FILE).values
    old = {(entry['engine'], entry['precision']): entry for entry in document['artifacts']}
    made_by = f'python -m training quantize models/{bundle.name} {called} --method {record["settings"]["method"]}'
    new = []
    for precision, result in measured.items():
        entry = dict(old.pop(('onnxruntime', precision), {}))
        entry |= {'engine': 'onnxruntime', 'precision': precision, 'file': files[precision]}
        entry['sha256'] = digest(bundle.folder / files[precision])
        if precision == 'int8':
            entry.pop('thresholds', None)  # chosen for the network that this one replaces
        entry['metrics'] = {
            'dataset': f'{called}/val',
            **result.stated(),
            'command': f'python -m training measure models/{bundle.name} {called} --precision {precision}',
        }
        new.append(
            {**entry, 'made_by': f'{made_by} --images {record["calibration_images"]}'} if precision == 'int8' else entry
        )
    document['artifacts'] = [*new, *old.values()]
    provenance = document.setdefault('provenance', {})
    provenance['quantize'] = record
    loss = 1 - measured['int8'].accuracy.map / max(measured['fp32'].accuracy.map, 1e-9)
    provenance['int8_relative_map_loss'] = round(loss, 4)
    return document
