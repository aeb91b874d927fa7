"""`kd_perception evaluate`: accuracy and latency from bags, in one report."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from kd_perception.bundles.bundle import find_bundle
from kd_perception.cli.detector_options import add_detector_options
from kd_perception.errors import KdPerceptionError
from kd_perception.regular_file import printable, read_regular
from kd_perception.report.figures import FIGURES
from kd_perception.tracking.bytetrack import TrackerSettings

EXIT_MISSED = 3
"""Exit status when everything ran but a --fail-under or --fail-over was missed."""

READ_AHEAD = 4
"""Frames read and decoded ahead in mode every; realtime measures every frame by itself, as the node has it."""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `evaluate`."""
    parser = commands.add_parser(
        'evaluate',
        help='accuracy and latency of a bundle from bags, in one report',
        description=(
            'Runs a bundle over every frame of the bags, without ROS, on the path that the node runs. '
            'Ground truth is a Detection2DArray topic in the bag or a COCO file. Leaves report.json and report.html.'
        ),
        epilog=(
            "mode realtime plays the frames to the node's own latest-frame queue on a simulated clock and adds streaming AP. "
            f'Exit status: 0 done, 1 error or a bag failed, {EXIT_MISSED} a threshold was missed. '
            'Example: kd_perception evaluate drive.mcap --bundle aerial_traffic --mode realtime --rate 2 '
            '--fail-under map50=0.6 --fail-over p95_ms=40'
        ),
    )
    parser.add_argument('bags', nargs='+', type=Path, metavar='BAG', help='rosbag2 folder, .mcap or .db3 file')
    add_detector_options(parser)
    parser.add_argument('--out', type=Path, default=Path('out/evaluation'), help='report folder (default: %(default)s)')
    _add_truth(parser)
    _add_clock(parser)
    _add_tracker(parser)
    _add_work(parser)
    _add_limits(parser)
    parser.set_defaults(run=run)


def _add_truth(parser: argparse.ArgumentParser) -> None:
    """What is read, and what it is compared with."""
    parser.add_argument('--topic', default='', help='image topic, if the bag has several')
    parser.add_argument('--ground-truth', default='', help='Detection2DArray topic or COCO file')
    parser.add_argument(
        '--class-map',
        action='append',
        type=_class_pair,
        default=[],
        metavar='THEIRS=OURS',
        help='name of a class in the ground truth = name in the bundle, or = ignore; may be repeated',
    )
    parser.add_argument(
        '--tolerance',
        type=float,
        default=1.0,
        metavar='MS',
        help='ground truth belongs to the nearest image within so many ms (default: %(default)s)',
    )


def _add_clock(parser: argparse.ArgumentParser) -> None:
    """When frames come."""
    parser.add_argument('--mode', choices=('every', 'realtime'), default='every', help='default: %(default)s')
    parser.add_argument(
        '--rate', type=float, default=1.0, help='realtime: this many times faster (default: %(default)s)'
    )
    parser.add_argument(
        '--latency', default='measured', help='realtime: measured, milliseconds, or a file with one figure in ms a line'
    )


def _add_tracker(parser: argparse.ArgumentParser) -> None:
    """Whether and how objects are tracked, by the node's own parameters."""
    usual = TrackerSettings()
    parser.add_argument(
        '--tracker',
        choices=('none', 'bytetrack'),
        default='none',
        help='give detections ids as the node does, and judge them where the ground truth has ids (default: %(default)s)',
    )
    parser.add_argument('--track-high-score', type=float, default=usual.high_score, help='default: %(default)s')
    parser.add_argument('--track-match-iou', type=float, default=usual.match_iou, help='default: %(default)s')
    parser.add_argument('--track-keep-s', type=float, default=usual.keep_s, help='default: %(default)s')
    parser.add_argument('--track-publish-score', type=float, default=usual.publish_score, help='default: %(default)s')


def _add_work(parser: argparse.ArgumentParser) -> None:
    """Who does the work, and what more it leaves."""
    parser.add_argument('--workers', type=int, default=1, help='bags at the same time on this machine')
    parser.add_argument('--scheduler', default='', help='address of a Dask scheduler that runs the bags instead')
    parser.add_argument('--resume', action='store_true', help='go on where an interrupted run stopped')
    parser.add_argument('--write-bag', action='store_true', help='write images and detections as bags for RViz')


def _add_limits(parser: argparse.ArgumentParser) -> None:
    """What makes the exit status."""
    for side, relation in (('under', '<'), ('over', '>')):
        parser.add_argument(
            f'--fail-{side}',
            action='append',
            type=_limit,
            default=[],
            metavar='FIGURE=VALUE',
            help=f'exit status {EXIT_MISSED} if FIGURE {relation} VALUE; one of {", ".join(FIGURES)}',
        )


def _class_pair(text: str) -> tuple[str, str]:
    theirs, separator, ours = text.partition('=')
    if not separator or not theirs or not ours:
        raise argparse.ArgumentTypeError(f'{text!r} is not THEIRS=OURS, such as van=minibus')
    return theirs, ours


def _limit(text: str) -> tuple[str, float]:
    name, _, value = text.partition('=')
    try:
        if name in FIGURES:
            return name, float(value)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f'{text!r} is not FIGURE=NUMBER with one of {", ".join(FIGURES)}')


def run(options: argparse.Namespace) -> int:
    """Evaluate, write the report, print the headline, and judge the thresholds."""
    import faster_coco_eval  # noqa: F401  where it is missing, that is said before anything runs

    from kd_perception.evaluation.evaluate import run_jobs
    from kd_perception.evaluation.results import BagFailure
    from kd_perception.metrics.tracking import check_available
    from kd_perception.report.files import write_report
    from kd_perception.report.report import make_report

    if options.tracker != 'none':
        check_available()
    jobs = _jobs(options)
    jobs[0].tiling()  # what nobody can read is refused before anything runs
    selection = jobs[0].selection()
    bundle, artifact = jobs[0].operated(selection.bundle), selection.artifact
    jobs = [job.pinned(selection) for job in jobs]
    with closing(_Bar(options)) as bar:
        try:
            outcomes = list(run_jobs(jobs, options.workers, options.scheduler, bar.frames, bar.bag))
        except KeyboardInterrupt:
            print('\ninterrupted; the same command with --resume goes on from here', file=sys.stderr)
            return 130
    failures = [outcome for outcome in outcomes if isinstance(outcome, BagFailure)]
    results = [outcome for outcome in outcomes if not isinstance(outcome, BagFailure)]
    streaming = _streaming(options, sum(not f.rejected for r in results for f in r.frames))
    command = shlex.join(['kd_perception', *sys.argv[1:]])
    report = make_report(bundle, artifact, results, failures, streaming, command, _tracker(options))
    if options.tracker != 'none' and report['tracking'] is None:
        print('kd_perception: warning: no ground truth with ids: nothing is said about tracking', file=sys.stderr)
    headline = write_report(report, results, bundle, options.out)
    if options.write_bag:
        from kd_perception.evaluation.write_back import write_detections

        for result in results:
            write_detections(result, bundle, options.out / f'{result.path.stem}_detections')
    print(printable('\n'.join(headline)))
    missed = missed_limits(report, options.fail_under, options.fail_over)
    for line in [f'{failure.name} failed: {failure.reason}' for failure in failures] + missed:
        print(f'kd_perception: {printable(line)}', file=sys.stderr)
    return 1 if failures else EXIT_MISSED if missed else 0


def _jobs(options: argparse.Namespace) -> list[Any]:
    from kd_perception.evaluation.evaluate import Job
    from kd_perception.machine.cores import physical_cores

    threads = options.threads or max(1, physical_cores() // max(options.workers, 1))
    names = [f'{index:03d}_{bag.stem}.jsonl' for index, bag in enumerate(options.bags)]
    return [
        Job(
            bag=bag.resolve(),
            bundle=find_bundle(options.bundle).resolve(),
            engine=options.engine,
            precision=options.precision,
            topic=options.topic,
            ground_truth=options.ground_truth,
            class_map=tuple(options.class_map),
            tolerance_ns=round(1e6 * options.tolerance),
            threads=threads,
            tiles=options.tiles,
            tile_overlap=options.tile_overlap,
            suppression=options.suppression,
            journal=(options.out / 'frames' / name).resolve(),
            resume=options.resume,
            ahead=READ_AHEAD if options.mode == 'every' else 0,
        )
        for bag, name in zip(options.bags, names, strict=True)
    ]


def _tracker(options: argparse.Namespace) -> TrackerSettings | None:
    if options.tracker == 'none':
        return None
    return TrackerSettings(
        high_score=options.track_high_score,
        match_iou=options.track_match_iou,
        keep_s=options.track_keep_s,
        publish_score=options.track_publish_score,
    )


def _streaming(options: argparse.Namespace, frames: int) -> Any:
    from kd_perception.report.report import Streaming

    if options.mode == 'every':
        return None
    if not options.rate > 0:
        raise KdPerceptionError(f'--rate must be positive, not {options.rate}')
    if options.latency == 'measured':
        return Streaming(options.rate)
    return Streaming(options.rate, read_latencies(options.latency, frames), options.latency)


def read_latencies(source: str, frames: int) -> list[float]:
    """Latencies in ms from a figure or from a file with one figure a line.

    Raises:
        KdPerceptionError: it is neither, or the file does not hold one figure for every frame.
    """
    try:
        values = [float(source)] * frames
    except ValueError:
        values = _latency_file(source)
    if len(values) != frames:
        raise KdPerceptionError(f'--latency {source} holds {len(values)} figures for {frames} frames')
    if not all(0 <= value < float('inf') for value in values):
        raise KdPerceptionError(f'--latency {source}: latencies are milliseconds from 0 up')
    return values


def _latency_file(source: str) -> list[float]:
    try:
        return [float(line) for line in read_regular(Path(source), 64 << 20, KdPerceptionError).split()]
    except (OSError, ValueError) as error:
        raise KdPerceptionError(
            f'--latency {source}: neither a figure in ms nor a file with one a line: {error}'
        ) from error


def missed_limits(
    report: dict[str, Any], under: Sequence[tuple[str, float]], over: Sequence[tuple[str, float]]
) -> list[str]:
    """A line for every limit that the report misses; a figure that the report does not have is missed."""
    return _missed(report, under, 'at least', lambda value, limit: value >= limit) + _missed(
        report, over, 'at most', lambda value, limit: value <= limit
    )


def _missed(
    report: dict[str, Any],
    limits: Sequence[tuple[str, float]],
    wanted: str,
    holds: Callable[[float, float], bool],
) -> list[str]:
    lines = []
    for name, limit in limits:
        value: Any = report
        for key in FIGURES[name]:
            value = value.get(key) if isinstance(value, dict) else None
        if value is None:
            lines.append(
                f'{name} is not in the report (no ground truth, or not mode realtime); {wanted} {limit:g} was wanted'
            )
        elif not holds(value, limit):
            lines.append(f'{name} is {value:.4g}; {wanted} {limit:g} was wanted')
    return lines


class _Bar:
    """Progress with rate and remaining time: frames of one bag after the other, or bags where many run at once."""

    def __init__(self, options: argparse.Namespace) -> None:
        from tqdm import tqdm

        self._many = options.workers > 1 or bool(options.scheduler)
        total = len(options.bags) if self._many else None
        self._bar = tqdm(total=total, unit='bag' if self._many else 'frame', disable=None, dynamic_ncols=True)

    def frames(self, done: int, total: int) -> None:
        if done == 1:
            self._bar.reset(total=total)
        self._bar.update(1)

    def bag(self, job: Any) -> None:
        if self._many:
            self._bar.update(1)

    def close(self) -> None:
        self._bar.close()
