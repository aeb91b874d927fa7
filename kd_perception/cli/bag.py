"""`kd_perception bag …`: make bags with ground truth, and see what is in a bag."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kd_perception.regular_file import printable, shown

if TYPE_CHECKING:
    from kd_perception.bags.making import BagForm, Truth
    from kd_perception.bags.sources import FrameSource

_JPEG_QUALITY = 95
_SCENE_FRAMES = 300


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `bag` and its actions."""
    bag = commands.add_parser(
        'bag',
        help='make bags with ground truth of videos, images and scenes; see what is in one',
        epilog='example: kd_perception bag from-scene --out flight',
    )
    actions = bag.add_subparsers(metavar='ACTION', required=True)
    _add_from_video(actions)
    _add_from_images(actions)
    _add_from_scene(actions)
    _add_info(actions)
    _add_recover(actions)


def _add_from_video(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    video = actions.add_parser(
        'from-video',
        help='a bag of a video',
        description='Writes the frames to /image and the boxes to /ground_truth, with their names in LabelInfo.',
        epilog='example: kd_perception bag from-video V_DRONE_001.mp4 --ground-truth V_DRONE_001.csv --out drone_001',
    )
    video.add_argument('video', type=Path)
    video.add_argument(
        '--ground-truth', type=Path, metavar='CSV', help='columns frame (from 0), label, x, y, w, h in pixels'
    )
    _add_form(video, frames=0, fps="the frames' own times")
    video.set_defaults(run=_from_video)


def _add_from_images(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    images = actions.add_parser(
        'from-images',
        help='a bag of a folder of images, in the order of their names',
        epilog='example: kd_perception bag from-images photos --ground-truth photos.json --fps 5 --out photos_bag',
    )
    images.add_argument('folder', type=Path)
    images.add_argument('--ground-truth', type=Path, metavar='COCO', help='COCO file that names the images')
    _add_form(images, frames=0, fps='5')
    images.set_defaults(run=_from_images)


def _add_from_scene(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    scene = actions.add_parser(
        'from-scene',
        help='a bag of a synthetic flight over traffic, with exact boxes',
        epilog='example: kd_perception bag from-scene --seed 3 --frames 300 --out flight',
    )
    scene.add_argument('--seed', type=int, default=0, help='default: %(default)s')
    scene.add_argument('--width', type=int, default=640, help='pixels (default: %(default)s)')
    scene.add_argument('--height', type=int, default=480, help='pixels (default: %(default)s)')
    _add_form(scene, frames=_SCENE_FRAMES, fps='30')
    scene.set_defaults(run=_from_scene)


def _add_info(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    info = actions.add_parser(
        'info',
        help='topics, rate, image size and ground truth of a bag',
        epilog='example: kd_perception bag info flight',
    )
    info.add_argument('bag', type=Path, help='folder, .mcap or .db3 file')
    info.set_defaults(run=_info)


def _add_recover(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    recover = actions.add_parser(
        'recover',
        help='a new bag of what can be read of a damaged or unfinished one',
        description='Saves all messages that lie before the first damage of each file, and says where that is.',
        epilog='example: kd_perception bag recover drive_0.mcap --out drive_recovered',
    )
    recover.add_argument('bag', type=Path, help='folder, .mcap or .db3 file')
    recover.add_argument('--out', type=Path, required=True, metavar='BAG', help='folder of the new bag')
    recover.add_argument('--storage', choices=('mcap', 'sqlite3'), default='mcap', help='default: %(default)s')
    recover.set_defaults(run=_recover)


def _add_form(parser: argparse.ArgumentParser, frames: int, fps: str) -> None:
    parser.add_argument('--out', type=Path, required=True, metavar='BAG', help='folder of the new bag')
    parser.add_argument('--storage', choices=('mcap', 'sqlite3'), default='mcap', help='default: %(default)s')
    parser.add_argument('--topic', default='/image', help='of the images (default: %(default)s)')
    parser.add_argument('--frame-id', default='camera', help='of every header (default: %(default)s)')
    parser.add_argument(
        '--jpeg',
        type=int,
        nargs='?',
        const=_JPEG_QUALITY,
        default=0,
        choices=range(1, 101),
        metavar='QUALITY',
        help=f'write JPEG images to TOPIC/compressed (quality: {_JPEG_QUALITY}) instead of raw ones',
    )
    parser.add_argument('--fps', type=float, default=0.0, help=f'frames per second (default: {fps})')
    parser.add_argument('--frames', type=int, default=frames, help='most frames (default: %(default)s; 0 takes all)')
    parser.add_argument(
        '--start', type=float, default=1.0, help='stamp of the first frame in seconds (default: %(default)s)'
    )
    parser.add_argument('--force', action='store_true', help='replace a bag that is already there')


def _from_video(options: argparse.Namespace) -> int:
    from kd_perception.bags.truth_sources import read_truth_table
    from kd_perception.bags.video_source import VideoSource

    table = read_truth_table(options.ground_truth) if options.ground_truth else {}
    names = sorted({entry.class_name for objects in table.values() for entry in objects})
    return _make(options, VideoSource(options.video), (lambda number, _: table.get(number)) if table else None, names)


def _from_images(options: argparse.Namespace) -> int:
    from kd_perception.bags.ground_truth import IGNORED
    from kd_perception.bags.sources import FolderSource
    from kd_perception.bags.truth_sources import name_of, read_coco_by_name

    table = read_coco_by_name(options.ground_truth) if options.ground_truth else {}
    classes = sorted({entry.class_name for objects in table.values() for entry in objects} - {IGNORED})
    source = FolderSource(options.folder)
    names = {path.name: name_of(path, table) for path in source.paths} if table else {}
    status = _make(options, source, (lambda _, frame: table.get(names[frame.name] or '')) if table else None, classes)
    missing = len(table) - len({*names.values()} - {None})
    if missing:
        print(
            f'kd_perception: {missing} of {len(table)} images of {shown(options.ground_truth)} are not there',
            file=sys.stderr,
        )
    if source.skipped:
        print(f'kd_perception: {source.skipped} of {source.count} images cannot be decoded', file=sys.stderr)
    return 1 if source.skipped else status


def _from_scene(options: argparse.Namespace) -> int:
    from kd_perception.bags.making import truth_of_scene
    from kd_perception.bags.sources import SceneSource
    from kd_perception.scene import CLASS_NAMES

    options.frames = options.frames or _SCENE_FRAMES
    source = SceneSource(options.seed, options.width, options.height, options.fps or 30.0)
    return _make(options, source, truth_of_scene(CLASS_NAMES), CLASS_NAMES)


def _make(
    options: argparse.Namespace, source: FrameSource, truth: Truth | None, class_names: list[str] | tuple[str, ...]
) -> int:
    from tqdm import tqdm

    from kd_perception.bags.making import make_bag

    form = _form(options)
    total = min(filter(None, (source.count, form.frames)), default=None)
    with tqdm(total=total, unit='frame', disable=None, dynamic_ncols=True) as bar:
        made = make_bag(source, options.out, form, truth, class_names, bar.update)
    truth_line = f'{made.objects} objects in {made.annotated} of them' if truth else 'no ground truth'
    print(printable(f'{options.out}: {made.frames} frames of {source.name}, {truth_line}'))
    if truth and made.annotated < made.frames:
        print(f'{made.frames - made.annotated} frames have no ground truth: they are no empty frames, and not scored')
    return 0


def _form(options: argparse.Namespace) -> BagForm:
    from kd_perception.bags.making import BagForm
    from kd_perception.errors import KdPerceptionError

    if options.fps < 0 or options.frames < 0 or options.start <= 0:
        raise KdPerceptionError('--fps and --frames must not be negative, and --start must be above 0')
    return BagForm(
        storage=options.storage,
        topic='/' + options.topic.strip('/'),
        jpeg_quality=options.jpeg,
        frame_id=options.frame_id,
        fps=options.fps,
        start_ns=round(options.start * 1e9),
        frames=options.frames,
        overwrite=options.force,
    )


def _info(options: argparse.Namespace) -> int:
    from kd_perception.bags.info import describe

    print(printable(describe(options.bag)))
    return 0


def _recover(options: argparse.Namespace) -> int:
    from kd_perception.bags.recovery import recover

    recovered = recover(options.bag, options.out, options.storage)
    for line in recovered.damage:
        print(f'kd_perception: {printable(line)}', file=sys.stderr)
    for type_name, count in recovered.unknown.items():
        print(f'kd_perception: {count} messages of {printable(type_name)} are left out: unknown type', file=sys.stderr)
    print(printable(f'{options.out}: {recovered.messages} messages saved'))
    return 0
