"""What a teacher costs in training time: `python -m benchmarks.distillation`.

Weights are random and images are synthetic: time depends on the structures alone. Each arm is trained for a few steps and for a
few more, in turn with all others; the difference is the time of a step, without what a training costs once.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks import machine, report
from training.data.augment import AugmentSettings
from training.data.dataset import read_classes
from training.data.scenes import SceneSetSettings, prepare
from training.distill.settings import DistillSettings, TermSettings
from training.fit.detector import fit_detector
from training.fit.job import FitJob
from training.fit.settings import FitSettings
from training.models.weights import build_network, save_weights
from training.prune.pruning import prune
from training.prune.settings import PruneSettings

FEW, MORE = 3, 15
EPILOG = """\
example:
  python -m benchmarks.distillation --size 320 --rounds 5
"""


@dataclass(frozen=True)
class Arm:
    """One training: who learns from whom, by which losses.

    Attributes:
        student: `whole` or `pruned` YOLOv8n.
        teacher: `v8n` or `v8s`; none trains on labels alone.
        losses: names of the terms.
    """

    student: str
    teacher: str
    losses: tuple[str, ...]


ARMS = (
    Arm('whole', '', ()),
    Arm('whole', 'v8n', ('cwd',)),
    Arm('whole', 'v8n', ('bckd', 'ld')),
    Arm('whole', 'v8n', ('cwd', 'bckd', 'ld')),
    Arm('whole', 'v8n', ('ultralytics',)),
    Arm('whole', 'v8s', ('cwd',)),
    Arm('pruned', '', ()),
    Arm('pruned', 'v8n', ('cwd',)),
    Arm('pruned', 'v8n', ('bckd', 'ld')),
)


def main() -> int:
    """Time all arms and print the table."""
    options = _options()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        jobs = _jobs(Path(scratch), options.size, options.batch)
        steps: dict[Arm, list[float]] = {arm: [] for arm in jobs}
        for number in tqdm(range(options.rounds), desc='timing', unit='round'):
            for arm, job in jobs.items():
                few, more = (_seconds(job, count, Path(scratch) / 'run' / f'{number}') for count in (FEW, MORE))
                steps[arm].append((more - few) / (MORE - FEW))
    print(report.machine_line(machine.describe()))
    print(f'\n{options.size} px, batch {options.batch}, {options.threads} thread(s); CPU seconds of a step, medians\n')
    print(_table({arm: statistics.median(values) for arm, values in steps.items()}))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        'python -m benchmarks.distillation',
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--size', type=int, default=320, help='pixels of the square input; %(default)s by default')
    parser.add_argument('--batch', type=int, default=8, help='images of a step; %(default)s by default')
    parser.add_argument('--threads', type=int, default=1, help='of torch; %(default)s by default')
    parser.add_argument('--rounds', type=int, default=3, help='turns of all arms; %(default)s by default')
    return parser.parse_args()


def _jobs(folder: Path, size: int, batch: int) -> dict[Arm, FitJob]:
    prepare(folder / 'scenes', SceneSetSettings(count=64, size=size))
    classes = read_classes(folder / 'scenes')
    images = sorted((folder / 'scenes/images/train').glob('*.jpg'))
    teachers = {name: folder / f'{name}.pt' for name in ('v8n', 'v8s')}
    for name, file in teachers.items():
        save_weights(build_network(f'yolo{name}.yaml', classes), file, classes)
    pruned = prune(build_network('yolov8n.yaml', classes), PruneSettings(ratio=0.5), size, size)
    settings = FitSettings(
        image_size=size, batch=batch, steps=MORE, augment=AugmentSettings(mosaic=0.5, close_mosaic=0)
    )
    return {
        arm: FitJob(
            student=pruned.network if arm.student == 'pruned' else 'yolov8n.yaml',
            classes=classes,
            images=images,
            settings=settings,
            teacher=teachers.get(arm.teacher),
            distill=DistillSettings(tuple(TermSettings(name) for name in arm.losses)) if arm.losses else None,
            kept=pruned.kept if arm.student == 'pruned' and arm.losses else None,
        )
        for arm in ARMS
    }


def _seconds(job: FitJob, steps: int, folder: Path) -> float:
    """CPU seconds of a training with so many steps."""
    started = time.process_time()
    fit_detector(replace(job, settings=replace(job.settings, steps=steps)), folder, anew=True)
    return time.process_time() - started


def _table(seconds: dict[Arm, float]) -> str:
    plain = {arm.student: value for arm, value in seconds.items() if not arm.losses}
    rows = [
        (
            f'YOLOv8n {arm.student}',
            arm.teacher or '–',
            ' + '.join(arm.losses) or 'labels alone',
            f'{value:.3f}',
            f'{value / plain[arm.student]:.2f}×',
        )
        for arm, value in seconds.items()
    ]
    return report.table(('student', 'teacher', 'losses', 's a step', 'of plain training'), rows)


if __name__ == '__main__':
    sys.exit(main())
