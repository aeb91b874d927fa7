"""The one path from an image to detections; node, evaluation and export parity all use it."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from kd_perception.detection.decoding import decode_output
from kd_perception.detection.detections import Detections
from kd_perception.detection.engine import Array, Engine
from kd_perception.detection.letterbox import Letterbox
from kd_perception.detection.network import InputSpec, NetworkSpec
from kd_perception.detection.nms import nms
from kd_perception.detection.stage_times import StageTimes
from kd_perception.detection.thresholds import Thresholds
from kd_perception.detection.tile_merging import merge
from kd_perception.detection.tiles import Plan, Tiling

TIMED_PASSES = 10
"""From so many passes, warmed up, `tiles: auto` learns how long one takes."""
MAX_PLANS = 16
"""Frame sizes whose tiles are kept; a source that changes its size at every frame costs time, not memory."""


class InputBuffer:
    """The network's input, reused for every frame: letterboxed uint8, normalized only where the graph does not do it."""

    def __init__(self, spec: InputSpec) -> None:
        self._spec = spec
        self._canvas = np.empty((spec.height, spec.width, 3), np.uint8)
        plain = spec.dtype == 'uint8' and spec.layout == 'nhwc' and spec.color == 'bgr'
        self.batch: Array = self._canvas[None] if plain else np.empty(spec.shape, spec.dtype)
        self._plain = plain
        self._mean = np.array(spec.mean, np.float32)
        self._scale = 1 / np.array(spec.std, np.float32)
        self._letterbox: Letterbox | None = None

    def fill(self, image: npt.NDArray[np.uint8]) -> Letterbox:
        """Put a BGR image into `batch`; the geometry that leads back is returned."""
        size = (image.shape[1], image.shape[0])
        letterbox = self._letterbox
        if letterbox is None or letterbox.source_size != size:
            spec = self._spec
            letterbox = self._letterbox = Letterbox(size, (spec.width, spec.height), spec.resize, spec.pad)
        letterbox.apply(image, self._canvas)
        if not self._plain:
            self._convert()
        return letterbox

    def _convert(self) -> None:
        """Canvas → batch for networks that want another channel order, layout or normalization done outside."""
        pixels = self._canvas[..., ::-1] if self._spec.color == 'rgb' else self._canvas
        target = self.batch[0].transpose(1, 2, 0) if self._spec.layout == 'nchw' else self.batch[0]
        if self._spec.dtype == 'uint8':
            target[...] = pixels
            return
        for channel in range(3):
            np.subtract(pixels[..., channel], self._mean[channel], out=target[..., channel])
            target[..., channel] *= self._scale[channel]


class Detector:
    """One network with its pre- and postprocessing. Not thread-safe: one frame at a time.

    Attributes:
        bundle: the network that is run: a `Bundle`, or what knows as much of it.
        engine: what runs it.
        thresholds: the operating point; may be replaced between frames.
        max_detections: most boxes reported per frame.
        tiling: how large frames are cut into tiles; None sees every frame as a whole, in one pass.
        plan: the passes in which the last frame was seen; None before, and without tiling.
        engine_since: `time.perf_counter()` when the engine was given a batch; None while it has none. For a watchdog's eyes.
    """

    def __init__(
        self,
        bundle: NetworkSpec,
        engine: Engine,
        thresholds: Thresholds | None = None,
        max_detections: int | None = None,
        tiling: Tiling | None = None,
    ) -> None:
        self.bundle = bundle
        self.engine = engine
        self.thresholds = thresholds or bundle.thresholds
        self.max_detections = max_detections or bundle.output.max_detections
        self.tiling = tiling
        self.plan: Plan | None = None
        self.engine_since: float | None = None
        self._plans: dict[tuple[int, int], Plan] = {}
        self._pass_ms: float | None = None
        self._input = InputBuffer(bundle.input)

    def detect(self, image: npt.NDArray[np.uint8]) -> tuple[Detections, StageTimes]:
        """Detect objects in one image.

        Args:
            image: BGR uint8 (H, W, 3), any size.

        Returns:
            Detections in source pixels, clipped to the image, by falling score; and `preprocess`, `infer`, `postprocess` in ms,
            summed over the tiles where there are some.

        Raises:
            EngineError: the engine failed, or its outputs do not fit the bundle's layout.
        """
        if self.tiling is None:
            return self._detect_whole(image)
        plan = self.plan = self._plan_for(self.tiling, (image.shape[1], image.shape[0]))
        return self._detect_whole(image) if len(plan.passes) == 1 else self._detect_tiles(image, plan)

    def _detect_tiles(self, image: npt.NDArray[np.uint8], plan: Plan) -> tuple[Detections, StageTimes]:
        """One tile after the other through the same buffers: our networks take a batch of one."""
        passes = [self._detect_whole(tile.of(image)) for tile in plan.passes]
        started = time.perf_counter()
        found = merge([detections for detections, _ in passes], plan, self.thresholds, self.max_detections)
        times = StageTimes(
            preprocess=sum(stages.preprocess for _, stages in passes),
            infer=sum(stages.infer for _, stages in passes),
            postprocess=sum(stages.postprocess for _, stages in passes) + 1e3 * (time.perf_counter() - started),
        )
        return found, times

    def _plan_for(self, tiling: Tiling, frame: tuple[int, int]) -> Plan:
        """The plan for frames of a size; made when the first of them comes, and reported for the first sizes."""
        if frame in self._plans:
            return self._plans[frame]
        network = self.bundle.input.width, self.bundle.input.height
        plan = tiling.plan(frame, network, self._time_of_a_pass() if tiling.needs_time else 0.0)
        if len(self._plans) < MAX_PLANS:
            tiling.report(f'tiles: {plan}')
        else:
            self._plans.pop(next(iter(self._plans)))
        self._plans[frame] = plan
        return plan

    def _time_of_a_pass(self) -> float:
        """95th percentile of a gray frame's time in ms, measured once."""
        if self._pass_ms is None:
            self._run_gray(3)
            totals = [t.preprocess + t.infer + t.postprocess for t in self._run_gray(TIMED_PASSES)]
            self._pass_ms = float(np.percentile(totals, 95))
        return self._pass_ms

    def _run_gray(self, frames: int) -> list[StageTimes]:
        gray = np.full((self.bundle.input.height, self.bundle.input.width, 3), self.bundle.input.pad, np.uint8)
        return [self._detect_whole(gray)[1] for _ in range(frames)]

    def _detect_whole(self, image: npt.NDArray[np.uint8]) -> tuple[Detections, StageTimes]:
        started = time.perf_counter()
        letterbox = self._input.fill(image)
        filled = time.perf_counter()
        self.engine_since = filled
        try:
            outputs = self.engine.infer(self._input.batch)
        finally:
            self.engine_since = None
        inferred = time.perf_counter()
        detections = self._postprocess(outputs, letterbox)
        done = time.perf_counter()
        times = StageTimes(
            preprocess=1e3 * (filled - started), infer=1e3 * (inferred - filled), postprocess=1e3 * (done - inferred)
        )
        return detections, times

    def _postprocess(self, outputs: dict[str, Array], letterbox: Letterbox) -> Detections:
        spec, thresholds = self.bundle.output, self.thresholds
        found = decode_output(
            spec.layout,
            outputs,
            score_threshold=thresholds.lowest,
            box_format=spec.box_format,
            class_count=len(self.bundle.classes),
        )
        agnostic = thresholds.is_class_agnostic
        if spec.layout != 'end2end' or agnostic:  # end2end networks have compared the boxes of one class themselves
            found = nms(found, thresholds.iou, len(found), agnostic)
        reported = thresholds.reported(found, self.bundle.classes).nonzero()[0]
        found = found.select(reported[: self.max_detections])
        boxes = letterbox.to_source(found.boxes)
        has_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        return Detections(boxes[has_area], found.scores[has_area], found.class_ids[has_area])

    def warm_up(self, frames: int = 3) -> float:
        """Run a gray frame a few times, so that the first real one is not late; returns the last run's engine time in ms."""
        infer = self._run_gray(frames)[-1].infer
        if self.tiling is not None and self.tiling.needs_time:
            self._time_of_a_pass()
        return infer

    def close(self) -> None:
        """Free the engine."""
        self.engine.close()
