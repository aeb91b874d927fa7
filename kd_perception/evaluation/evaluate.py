"""Runs a bundle over bags, here or on a Dask cluster: the same results in any order and split."""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kd_perception.bags.ground_truth import align
from kd_perception.bags.reader import BagFrame, BagImages, open_bag
from kd_perception.bags.truth_sources import read_ground_truth
from kd_perception.bundles.bundle import Artifact, Bundle, load_bundle
from kd_perception.detection.detections import Detections
from kd_perception.detection.detector import Detector
from kd_perception.detection.image import BgrImage
from kd_perception.detection.stage_times import StageTimes
from kd_perception.detection.tiles import OFF, OVERLAP, Tiling, parse
from kd_perception.engines.options import EngineOptions
from kd_perception.errors import EvaluationError, ImageError, KdPerceptionError
from kd_perception.evaluation.read_ahead import read_ahead
from kd_perception.evaluation.results import BagFailure, BagResult, FrameResult, Journal
from kd_perception.selection.selection import Request, Selection, select

LOWEST_SCORE = 0.001
"""Average precision asks for the whole curve, so nearly everything is detected; thresholds are applied afterwards."""

Progress = Callable[[int, int], None]
"""Called with frames done and frames in all."""


@dataclass(frozen=True)
class Job:
    """One bag to run, as plain values that travel to another process or machine.

    Attributes:
        bag: path of the bag.
        bundle: folder of the bundle.
        engine: registry name, or `auto`: the fastest engine here for the most accurate artifact.
        precision: `auto` or one that the engine can run.
        topic: image topic; empty takes the only one.
        ground_truth: Detection2DArray topic or COCO file; empty takes the bag's only such topic, if there is one.
        class_map: (class of the ground truth, class of the detector or `ignored`), where the names differ and the bundle
            does not state them as covered.
        tolerance_ns: ground truth belongs to the nearest image whose stamp is at most this far away; a millisecond
            forgives stamps that went through a float.
        threads: CPU threads inside one inference.
        tiles: `off`, `auto` or a grid, see `kd_perception.detection.tiles.parse`; no budget holds `auto` back here.
        tile_overlap: see `kd_perception.detection.tiles.Tiling`.
        suppression: one of `SUPPRESSIONS`; empty takes the bundle's.
        journal: file that keeps the results frame by frame; None keeps none.
        resume: go on with the journal of an interrupted run.
        max_map_drop: the accuracy gate, see `kd_perception.selection.selection.Request`.
        ahead: frames that are read and decoded while earlier ones are detected on; 0 does one thing after the other, as the node
            does with a single frame, so that the measured latencies are those of a frame alone.
    """

    bag: Path
    bundle: Path
    engine: str = 'onnxruntime'
    precision: str = 'auto'
    topic: str = ''
    ground_truth: str = ''
    class_map: tuple[tuple[str, str], ...] = ()
    tolerance_ns: int = 1_000_000
    threads: int = 0
    tiles: str = OFF
    tile_overlap: float = OVERLAP
    suppression: str = ''
    journal: Path | None = None
    resume: bool = False
    max_map_drop: float = 1.0
    ahead: int = 0

    def selection(self) -> Selection:
        """What of the bundle is run, and on which engine; never another bundle of its family."""
        request = Request(
            self.engine,
            self.precision,
            self.max_map_drop,
            budget_ms=math.inf,
            options=EngineOptions(threads=self.threads),
            family=False,
        )
        return select(load_bundle(self.bundle), request)

    def operated(self, bundle: Bundle) -> Bundle:
        """The bundle with the job's suppression in place of its own."""
        if not self.suppression:
            return bundle
        return replace(bundle, thresholds=replace(bundle.thresholds, suppression=self.suppression))

    def tiling(self) -> Tiling | None:
        """How large frames are cut; what is decided is reported on stderr.

        Raises:
            TilesError: nobody can read it.
        """
        return parse(self.tiles, self.tile_overlap, report=EngineOptions().report)

    def pinned(self, selection: Selection) -> Job:
        """The same job with engine and precision as selected, so that every bag runs on the same."""
        return replace(self, engine=selection.engine, precision=selection.options.precision)


def run_job(job: Job, progress: Progress | None = None) -> BagResult:
    """Detect on every frame of a bag.

    Raises:
        BagError, BundleError, EngineError: the bag or the detector cannot be used; says why.
    """
    selection = job.selection()
    bundle = job.operated(selection.bundle)
    detector = Detector(bundle, selection.load(), bundle.thresholds.down_to(LOWEST_SCORE), tiling=job.tiling())
    detector.warm_up()
    try:
        class_map = {**bundle.class_map, **dict(job.class_map)}
        return _run(job, detector, selection.artifact, class_map, progress or (lambda done, total: None))
    finally:
        detector.close()


def _run(
    job: Job, detector: Detector, artifact: Artifact, class_map: Mapping[str, str], progress: Progress
) -> BagResult:
    images = open_bag(job.bag, job.topic or None)
    truth = read_ground_truth(job.bag, job.ground_truth, detector.bundle.classes, class_map)
    digest = bag_hash(job.bag)
    info = detector.engine.info
    identity = {
        'bag': digest,
        'topic': images.topic,
        'artifact': artifact.sha256,
        'engine': f'{info.engine} {info.precision}',
        'score': LOWEST_SCORE,
        'iou': detector.thresholds.iou,
        'suppression': detector.thresholds.suppression,
        'tiles': f'{job.tiles}, overlap {job.tile_overlap:g}',
    }
    try:
        frames = _run_frames(job, images, identity, detector, progress)
    except OSError as error:
        raise EvaluationError(f'{job.journal} cannot be written: {error.strerror}') from error
    if not any(any(frame.size) for frame in frames):
        reason = f', the first because: {frames[0].rejected}' if frames else ''
        raise EvaluationError(f'{job.bag}: none of its {len(frames)} images on {images.topic} can be decoded{reason}')
    frames.sort(key=lambda result: result.stamp_ns)
    aligned = align(truth, (result.stamp_ns for result in frames), job.tolerance_ns)
    return BagResult(
        name=job.bag.name,
        path=job.bag,
        sha256=digest,
        topic=images.topic,
        frames=tuple(frames),
        truth={
            f.stamp_ns: aligned[f.stamp_ns].clipped(*f.size) for f in frames if f.stamp_ns in aligned and any(f.size)
        },
        unmatched_truth=len(truth) - len(aligned),
        engine={'engine': info.engine, 'provider': info.provider, 'device': info.device, 'threads': info.threads},
    )


def _run_frames(
    job: Job, images: BagImages, identity: dict[str, Any], detector: Detector, progress: Progress
) -> list[FrameResult]:
    """Decode, detect and keep; what the journal knows already is not done again."""
    journal = Journal(job.journal, identity, job.resume) if job.journal else None
    known = dict(journal.results) if journal else {}
    decoded = read_ahead(images, lambda frame: _decode(frame, skip=frame.key in known), job.ahead)
    frames = []
    with closing(journal) if journal else nullcontext(), closing(decoded):
        for done, frame in enumerate(decoded, 1):
            result = known.get(frame.key) or _detect(frame, detector)
            if journal and frame.key not in known:
                journal.add(result)
            frames.append(result)
            progress(done, images.count)
    return frames


@dataclass(frozen=True)
class _Decoded:
    """A frame ready for the detector: its image, or why there is none."""

    key: int
    image: BgrImage | None
    rejected: str = ''
    decode_ms: float = 0.0


def _decode(frame: BagFrame, skip: bool) -> _Decoded:
    """Decode a frame, unless its result is known already."""
    if skip:
        return _Decoded(frame.key, None)
    started = time.perf_counter()
    try:
        image = frame.decode()
    except ImageError as error:
        return _Decoded(frame.key, None, str(error))
    return _Decoded(frame.key, image, decode_ms=1e3 * (time.perf_counter() - started))


def _detect(frame: _Decoded, detector: Detector) -> FrameResult:
    if frame.image is None:
        return FrameResult(frame.key, Detections.empty(), StageTimes(), rejected=frame.rejected)
    detections, times = detector.detect(frame.image)
    times.decode = frame.decode_ms
    height, width = frame.image.shape[:2]
    return FrameResult(frame.key, detections, times, (width, height))


def bag_hash(path: Path) -> str:
    """sha256 over the bag's files in the order of their names."""
    digest = hashlib.sha256()
    path = path.parent if path.name == 'metadata.yaml' else path
    files = sorted(file for file in path.rglob('*') if file.is_file()) if path.is_dir() else [path]
    for file in files:
        digest.update(file.name.encode())
        with file.open('rb') as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def run_jobs(
    jobs: Sequence[Job],
    workers: int = 1,
    scheduler: str = '',
    progress: Progress | None = None,
    on_done: Callable[[Job], None] | None = None,
) -> Iterator[BagResult | BagFailure]:
    """Run many bags and yield their results in the order of the jobs, whatever the order in which they end.

    Args:
        jobs: what to run.
        workers: processes on this machine; with 1 everything happens here, and `progress` counts frames.
        scheduler: address of a Dask scheduler whose workers see the same paths; empty uses this machine.
        progress: called frame by frame, only with one worker.
        on_done: called with every job as it ends.
    """
    if scheduler:
        yield from _on_cluster(jobs, scheduler, on_done)
    elif workers > 1:
        with ProcessPoolExecutor(workers, multiprocessing.get_context('spawn')) as pool:
            yield from _in_order(jobs, [pool.submit(_attempt, job) for job in jobs], on_done)
    else:
        for job in jobs:
            yield _attempt(job, progress)
            if on_done:
                on_done(job)


def _attempt(job: Job, progress: Progress | None = None) -> BagResult | BagFailure:
    """A bag that fails is a result like any other: the rest goes on."""
    try:
        return run_job(job, progress)
    except (KdPerceptionError, OSError) as error:
        return BagFailure(job.bag.name, job.bag, str(error))


def _in_order(
    jobs: Sequence[Job], futures: Sequence[Future[BagResult | BagFailure]], on_done: Callable[[Job], None] | None
) -> Iterator[BagResult | BagFailure]:
    of = dict(zip(futures, jobs, strict=True))
    for future in as_completed(futures):
        if on_done:
            on_done(of[future])
    for future, job in zip(futures, jobs, strict=True):
        yield _outcome(future.result, job)


def _outcome(result: Callable[[], BagResult | BagFailure], job: Job) -> BagResult | BagFailure:
    """A worker that died takes only its own bag with it."""
    try:
        return result()
    except Exception as error:  # whatever a foreign process or cluster raises
        return BagFailure(job.bag.name, job.bag, f'its worker ended: {error}')


def _on_cluster(
    jobs: Sequence[Job], scheduler: str, on_done: Callable[[Job], None] | None
) -> Iterator[BagResult | BagFailure]:
    try:
        import distributed
    except ImportError as error:
        raise KdPerceptionError('--scheduler needs the library: pip install distributed') from error
    connect: Any = distributed.Client
    try:
        client = connect(scheduler, timeout='10s')
    except (OSError, ValueError) as error:
        raise KdPerceptionError(f'no Dask scheduler answers at {scheduler}: {error}') from error
    with client:
        futures = [client.submit(_attempt, job, pure=False) for job in jobs]
        for future, job in zip(futures, jobs, strict=True):
            yield _outcome(future.result, job)
            if on_done:
                on_done(job)
