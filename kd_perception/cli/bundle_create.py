"""`kd_perception bundle create`: a bundle of a detector that others exported, as ONNX or from Darknet."""

from __future__ import annotations

import argparse
import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from kd_perception.bundles.foreign.class_names import class_names
from kd_perception.bundles.foreign.options import ACTIVATIONS, AUTO, LAYOUTS, Channels, ImportOptions
from kd_perception.cli.detector_options import add_suppression, image_size
from kd_perception.cli.pictures import add_picture, read_pictures
from kd_perception.detection.letterbox import MODES
from kd_perception.detection.thresholds import PER_CLASS, suppression_entry

if TYPE_CHECKING:
    from kd_perception.detection.image import BgrImage
    from kd_perception.selection.importing import Imported

ANNOTATED = 'annotated'
"""Folder in the bundle for the user's pictures with what was found."""

EPILOG = """\
examples:
  kd_perception bundle create yolo11n.onnx --out models/yolo11n --picture street.jpg
  kd_perception bundle create yolox_nano.onnx --out models/yolox_nano --classes coco
  kd_perception bundle create yolo-fastest.cfg --weights yolo-fastest.weights --out models/fastest --classes coco
  kd_perception bundle create detr.onnx --out models/detr --classes names.txt --box-format cxcywh --normalized
"""


def add_command(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `create`."""
    create = actions.add_parser(
        'create',
        help="make a bundle of an ONNX detector, such as Ultralytics' export, YOLOX, NanoDet, RT-DETR",
        description=(
            'Reads what the file states, runs it on pictures, finds out by the values what its outputs hold, adds to the\n'
            'graph what decodes them, and shows what the bundle detects. What stays open is refused with the option that\n'
            'decides it. Which networks can be imported: docs/bundle.md.'
        ),
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    create.add_argument('model', type=Path, help='ONNX file, or .cfg of Darknet')
    create.add_argument('--out', type=Path, required=True, help="bundle folder to make; its name becomes the bundle's")
    add_picture(create, 'a photograph of what it detects: it is looked at too, and drawn into the bundle folder')
    create.add_argument(
        '--classes',
        default='',
        help='class names if the file has none: comma separated, a text file with one a line, or coco for its 80',
    )
    create.add_argument('--size', type=image_size, help='input size WIDTHxHEIGHT, if the network takes any')
    create.add_argument('--weights', type=Path, help='.weights of a Darknet .cfg (default: the file beside it)')
    _add_input(create)
    _add_output(create)
    create.add_argument('--precision', default='', help='what the file is: fp32, fp16, int8 (default: by its weights)')
    create.add_argument('--license', '--licence', default='', help='license of the weights, if the file does not say')
    create.add_argument('--score', type=_share, default=0.25, help='score threshold (default: %(default)s)')
    create.add_argument('--iou', type=_share, default=0.6, help='IoU threshold of NMS (default: %(default)s)')
    add_suppression(create, default=PER_CLASS)
    create.set_defaults(run=run)


def _add_input(create: argparse.ArgumentParser) -> None:
    group = create.add_argument_group('how it was trained', 'by default as is usual for its family')
    group.add_argument('--color', '--colour', choices=('rgb', 'bgr'), default='', help='channel order')
    group.add_argument(
        '--scale', type=_divisor, help='pixel values are divided by this: 255, or 1 for 0 … 255 as they are'
    )
    group.add_argument(
        '--mean', type=_channels, metavar='A,B,C', help='subtracted from the pixel values, in the order of --color'
    )
    group.add_argument('--std', type=_channels, metavar='A,B,C', help='divides afterwards, in place of --scale')
    group.add_argument('--resize', choices=MODES, default='', help='keep the proportions of pictures, or stretch them')


def _add_output(create: argparse.ArgumentParser) -> None:
    group = create.add_argument_group('what its outputs hold', 'by default found out by the values')
    group.add_argument('--layout', choices=(AUTO, *LAYOUTS), default=AUTO, help='the form (default: %(default)s)')
    group.add_argument('--box-format', choices=('xyxy', 'cxcywh'), default='', help='corners, or center and size')
    group.add_argument(
        '--normalized', action=argparse.BooleanOptionalAction, default=None, help="boxes are shares of the input's size"
    )
    group.add_argument('--activation', choices=ACTIVATIONS, default='', help='what makes probabilities of the scores')


def _channels(text: str) -> Channels:
    try:
        values = [float(part) for part in text.split(',')]
    except ValueError:
        values = []
    if len(values) == 1:
        values *= 3
    if len(values) != 3 or not all(map(math.isfinite, values)):
        raise argparse.ArgumentTypeError(
            f'{text!r} is not one number for each of three channels, such as 123.7,116.3,103.5'
        )
    return values[0], values[1], values[2]


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number from 0 to 1')
    return value


def _divisor(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not math.isfinite(value) or value <= 0:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number above 0, such as 255')
    return value


def run(options: argparse.Namespace) -> int:
    """Make the bundle, and show what it is and finds."""
    from kd_perception.selection.importing import import_network

    wanted = ImportOptions(
        classes=class_names(options.classes) if options.classes else (),
        weights=options.weights,
        size=options.size,
        color=options.color,
        scale=options.scale,
        mean=options.mean,
        std=options.std,
        resize=options.resize,
        precision=options.precision,
        license=options.license,
        layout=options.layout,
        box_format=options.box_format,
        normalized=options.normalized,
        activation=options.activation,
        thresholds={'score': options.score, 'iou': options.iou, **suppression_entry(options.suppression)},
    )
    pictures = read_pictures(options.picture)
    imported = import_network(options.model, options.out, wanted, pictures)
    _show(imported, pictures)
    return 0


def _show(imported: Imported, pictures: dict[str, BgrImage]) -> None:
    from kd_perception.selection.importing import summary
    from kd_perception.text_table import aligned

    bundle = imported.bundle
    print(f'{bundle.folder}: {len(bundle.classes)} classes, {bundle.output.layout}')
    rows = [
        *imported.lines,
        *((Path(name).name, summary(found, bundle.classes)) for name, found in imported.found.items()),
    ]
    for line in aligned([list(row) for row in rows]):
        print(f'  {line}')
    for path in _draw(imported, pictures):
        print(f'drawn: {path}')
    if imported.hint:
        print(f'note: {imported.hint}')
    print(f'ros2 launch kd_perception detector.launch.py {shlex.quote(f"model:={bundle.folder.resolve()}")}')


def _draw(imported: Imported, pictures: dict[str, BgrImage]) -> list[Path]:
    """Each of the user's pictures with what was found, in the bundle folder."""
    import cv2

    from kd_perception.detection.drawing import draw

    drawn = []
    for number, (name, image) in enumerate(pictures.items()):
        folder = imported.bundle.folder / ANNOTATED
        folder.mkdir(exist_ok=True)
        stem = Path(name).stem
        target = folder / f'{stem}{f"_{number}" if (folder / f"{stem}.jpg").exists() else ""}.jpg'
        picture = draw(image.copy(), imported.found[name], imported.bundle.classes)
        if cv2.imwrite(str(target), picture):
            drawn.append(target)
    return drawn
