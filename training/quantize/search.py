"""The search for an INT8 network that is still the same detector: repairs from the cheapest to the dearest, each measured.

It stops at the first that holds. What a repair does not better is taken back. Every step is kept in its folder, so a search
that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
from tqdm import tqdm

from kd_perception.bundles.bundle import Bundle
from training.errors import QuantizationError
from training.export.parity import Parity
from training.quantize.calibration import Observed
from training.quantize.candidate import Candidate, leaving, observe, with_ranges
from training.quantize.float_parts import pools_first
from training.quantize.judging import Judge, Verdict
from training.quantize.noise import LayerNoise, layer_noise, unshifted
from training.quantize.pictures import Pictures
from training.quantize.qdq import QuantizeSettings, with_shapes
from training.quantize.repairs import equalised, rounded
from training.quantize.smoothing import smoothed
from training.quantize.weight_rounding import learned

METHODS = {
    'extremes': ('minmax', 100.0),
    'percentile 99.99': ('percentile', 99.99),
    'least error': ('mse', 100.0),
    'entropy': ('entropy', 100.0),
}
"""How ranges are taken, by the name of the step."""
REPAIR_PICTURES = 32
"""So many calibration pictures teach rounding, biases and the noise of layers."""
LEAST_GAIN = 0.01
"""A repair that lowers the drift by less than this share is taken back."""
TUNED = 'weights tuned in INT8'
FASTER = 1.05
"""From this ratio on INT8 is offered as faster than float."""


@dataclass(frozen=True)
class SearchSettings:
    """What a search may do.

    Attributes:
        engine: for which the graph is written: `onnxruntime`, `openvino`, or `tensorrt` (judged by ONNX Runtime).
        most_loss: the largest share of the float network's mAP50-95 that may be gone on the judged pictures.
        most_ms: longest inference on this machine; 0 for as long as the float network's.
        most_layers: at most so many layers stay in float beside first and last.
        tune: steps of training with the float network as teacher, the dearest repair; 0 leaves it out.
        every_step: also the steps behind the first that holds, to see what each gives.
        methods: steps of `METHODS` that are tried.
        quantize: how graphs are written; the target is the engine's.
        rounds: timed inferences of each network.
        threads: CPU threads of an inference.
    """

    engine: str = 'onnxruntime'
    most_loss: float = 0.01
    most_ms: float = 0.0
    most_layers: int = 32
    tune: int = 0
    every_step: bool = False
    methods: tuple[str, ...] = tuple(METHODS)
    quantize: QuantizeSettings = field(default_factory=QuantizeSettings)
    rounds: int = 15
    threads: int = 1

    @property
    def runs_on(self) -> str:
        """The engine that judges."""
        return 'onnxruntime' if self.engine == 'tensorrt' else self.engine

    def written(self, graph: onnx.GraphProto) -> QuantizeSettings:
        """How a graph for the engine is written.

        OpenVINO gains by the first convolution too, whose input is exact in 8 bits. So does ONNX Runtime where a MaxPool
        follows: its kernel for INT8 is quick in the layout of quantized convolutions alone, else it takes ten times as long.
        """
        gains = self.engine == 'openvino' or (self.engine == 'onnxruntime' and pools_first(graph))
        first_float = self.quantize.first_convolution_float and not gains
        return replace(self.quantize, target=self.engine, first_convolution_float=first_float)


@dataclass(frozen=True)
class SearchStep:
    """One step as it was measured.

    Attributes:
        name: of the repair.
        verdict: of the network then.
        ms: median time of an inference.
        float_ms: of the float network, measured in turn with it.
        float_layers: convolutions that stay in float.
        seconds: what making and measuring it took.
        file: of the network.
        kept: whether later steps build on it.
        amx: whether OpenVINO may use AMX: the way in which the first step was faster.
    """

    name: str
    verdict: Verdict
    ms: float
    float_ms: float
    float_layers: int
    seconds: float
    file: Path
    kept: bool = True
    amx: bool = True

    @property
    def speed(self) -> float:
        """How many times as fast as the float network."""
        return self.float_ms / self.ms

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), 'file': self.file.name}

    @classmethod
    def of(cls, values: dict[str, Any], folder: Path) -> SearchStep:
        """From plain values."""
        verdict = values['verdict']
        kept = {**values, 'file': folder / values['file']}
        return cls(**{**kept, 'verdict': Verdict(**{**verdict, 'parity': Parity(**verdict['parity'])})})


@dataclass(frozen=True)
class Found:
    """What a search ended with.

    Attributes:
        steps: all of them, in order.
        best: the one that holds, else the one with the least drift.
        holds: whether `best` is within the limits.
        candidate: of `best`.
        layers: what INT8 does to each layer of the first network with the best ranges.
    """

    steps: tuple[SearchStep, ...]
    best: SearchStep
    holds: bool
    candidate: Candidate
    layers: tuple[LayerNoise, ...]


def search(
    bundle: Bundle, pictures: Pictures, settings: SearchSettings, folder: Path, say: Callable[[str], None] = print
) -> Found:
    """Search, from the cheapest repair to the dearest.

    Args:
        bundle: with the float network.
        pictures: calibrate and judge.
        settings: what may be done.
        folder: keeps the steps; those of a search with the same settings, network and pictures are not made again.
        say: gets a line for each step.

    Raises:
        QuantizationError: the network cannot be quantized, or sees nothing on these pictures.
    """
    return _Search(bundle, pictures, settings, folder, say).run()


class _Search:
    def __init__(
        self, bundle: Bundle, pictures: Pictures, settings: SearchSettings, folder: Path, say: Callable[[str], None]
    ) -> None:
        self._settings, self._pictures, self._say = settings, pictures, say
        self._judge = Judge(bundle, settings.runs_on, pictures, settings.threads)
        if not self._judge.sees_anything:
            raise QuantizationError(
                'the float network finds nothing on these pictures: take pictures with what it detects in them'
            )
        model = with_shapes(self._judge.float_file, bundle.input.shape)
        written = settings.written(model.graph)
        self._start = Candidate(model, written)
        if not self._start.quantized:
            raise QuantizationError(
                f'{bundle.name} has no convolution between its first and its last ones: nothing to quantize'
            )
        same = asdict(replace(settings, tune=0))  # its steps go on from those without it
        same.pop('every_step')
        same['quantize'] = asdict(written)
        key = [same, bundle.artifact('onnxruntime', 'fp32').sha256, pictures.sha256, len(pictures.judged)]
        name = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:10]
        self._folder = folder / f'{bundle.name}-{settings.engine}-{name}'
        self._folder.mkdir(parents=True, exist_ok=True)
        self._few = pictures.fed[:: max(len(pictures.fed) // REPAIR_PICTURES, 1)][:REPAIR_PICTURES]
        self._steps: list[SearchStep] = []
        # Weights and biases are fitted to what is rounded: a step that rounds otherwise begins before they were.
        self._before_biases: Candidate | None = None

    def run(self) -> Found:
        """See `search`."""
        with tqdm(total=len(self._settings.methods) + 6, desc='INT8', unit='step', leave=False, disable=None) as bar:
            best, method = self._ranges(bar)
            layers, _ = layer_noise(best[0], self._few)
            for name, repair in self._repairs(method):
                if self._is_through(best[1]):
                    break
                bar.set_description(name)
                best = self._tried(name, repair, best)
                bar.update()
            if not self._is_through(best[1]):
                bar.set_description('layers in float')
                best = self._float_layers(best)
            if self._settings.tune and not self._is_through(best[1]):
                bar.set_description(TUNED)
                best = self._tuned(best)
        candidate, step = best
        return Found(tuple(self._steps), step, self._holds(step), candidate, tuple(layers))

    def _ranges(self, bar: Any) -> tuple[tuple[Candidate, SearchStep], str]:
        best: tuple[Candidate, SearchStep] | None = None
        chosen = ''
        observed = observe(self._start, self._pictures.fed)
        for method in self._settings.methods:
            bar.set_description(method)
            started = time.monotonic()
            candidate = self._calibrated(self._start, method, observed)
            step = self._measured(f'ranges: {method}', candidate, started)
            bar.update()
            if best is None or step.verdict.drift < best[1].verdict.drift:
                if best is not None:
                    self._take_back(best[1])
                best, chosen = (candidate, step), method
            else:
                self._take_back(step)
            if self._is_through(best[1]):
                break
        assert best is not None
        return best, chosen

    def _repairs(self, method: str) -> list[tuple[str, Callable[[Candidate], Candidate | None]]]:
        def channels(candidate: Candidate) -> Candidate | None:
            changed, count = equalised(candidate, self._few)
            return self._calibrated(changed, method) if count else None

        def smooth(candidate: Candidate) -> Candidate | None:
            changed, count = smoothed(candidate, self._few)
            return self._calibrated(changed, method) if count else None

        def biases(candidate: Candidate) -> Candidate:
            self._before_biases = candidate
            return unshifted(candidate, self._few)

        def rounding(candidate: Candidate) -> Candidate:
            return unshifted(rounded(self._before_biases or candidate, self._few), self._few)

        def learning(candidate: Candidate) -> Candidate | None:
            return learned(self._before_biases or candidate, self._few)

        return [
            ('channels equalised', channels),
            *([('channels equalised where rounded', smooth)] if self._settings.engine == 'openvino' else []),
            ('biases corrected', biases),
            ('weights rounded by what is read', rounding),
            ('weight rounding learned', learning),
        ]

    def _tried(
        self,
        name: str,
        repair: Callable[[Candidate], Candidate | None],
        best: tuple[Candidate, SearchStep],
    ) -> tuple[Candidate, SearchStep]:
        started = time.monotonic()
        candidate = repair(best[0])
        if candidate is None:
            return best
        step = self._measured(name, candidate, started)
        is_nearer = step.verdict.drift < (1 - LEAST_GAIN) * best[1].verdict.drift
        if is_nearer or (self._holds(step) and not self._holds(best[1])):
            return candidate, step
        self._take_back(step)
        return best

    def _float_layers(self, best: tuple[Candidate, SearchStep]) -> tuple[Candidate, SearchStep]:
        """Leave the noisiest layers in float: one, two, four, …, as long as the time allows."""
        start = self._before_biases or best[0]
        noise, _ = layer_noise(start, self._few)
        order = [layer.name for layer in sorted(noise, key=lambda layer: -layer.noise)]
        count = 1
        while count <= min(self._settings.most_layers, len(order) - 1):
            started = time.monotonic()
            candidate = unshifted(leaving(start, order[:count]), self._few)
            step = self._measured(f'{count} noisiest layers in float', candidate, started)
            if step.ms > (self._settings.most_ms or step.float_ms):
                self._take_back(step)
                break
            if self._holds(step) and not self._settings.every_step:
                return candidate, step
            if step.verdict.drift < (1 - LEAST_GAIN) * best[1].verdict.drift:
                best = candidate, step
            else:
                self._take_back(step)
            count *= 2
        return best

    def _tuned(self, best: tuple[Candidate, SearchStep]) -> tuple[Candidate, SearchStep]:
        """Train the network as INT8 computes it, with the float network as its teacher."""
        from training.quantize.tuning import tuned

        try:
            return self._tried(
                TUNED, lambda one: tuned(one, self._start, self._pictures.fed, self._settings.tune), best
            )
        except QuantizationError as error:
            self._say(f'{TUNED}: skipped: {error}')
            return best

    def _calibrated(self, candidate: Candidate, method: str, observed: Observed | None = None) -> Candidate:
        """With ranges from the calibration pictures."""
        kind, percentile = METHODS[method]
        return with_ranges(candidate, self._pictures.fed, kind, percentile, observed)

    def _measured(self, name: str, candidate: Candidate, started: float) -> SearchStep:
        record = self._folder / f'{len(self._steps):02d}.json'
        known = _read_step(record, name)
        if known is None:
            file = record.with_suffix('.onnx')
            onnx.save(candidate.written(), file)
            amx = self._steps[0].amx if self._steps else None
            times = self._judge.times(file, self._settings.rounds, amx)
            total = sum(node.op_type == 'Conv' for node in candidate.model.graph.node)
            known = SearchStep(
                name,
                self._judge.judge(file),
                round(times.ms['int8'], 3),
                round(times.ms['float'], 3),
                total - len(candidate.quantized),
                round(time.monotonic() - started, 1),
                file,
                amx=times.amx,
            )
            record.write_text(json.dumps(known.to_json(), indent=1), encoding='utf-8')
        self._steps.append(known)
        self._say(describe(known))
        return known

    def _take_back(self, step: SearchStep) -> None:
        self._steps[self._steps.index(step)] = replace(step, kept=False)

    def _is_through(self, step: SearchStep) -> bool:
        """Whether no dearer step is looked at."""
        return self._holds(step) and not self._settings.every_step

    def _holds(self, step: SearchStep) -> bool:
        within = not self._settings.most_ms or step.ms <= self._settings.most_ms
        return (
            within and step.verdict.is_near(self._settings.most_loss) and step.verdict.holds(self._settings.most_loss)
        )


def _read_step(record: Path, name: str) -> SearchStep | None:
    try:
        step = SearchStep.of(json.loads(record.read_text(encoding='utf-8')), record.parent)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return step if step.name == name and step.file.is_file() else None


def describe(step: SearchStep) -> str:
    """A line for people."""
    verdict = step.verdict
    accuracy = f'{100 * verdict.parity.found:.1f} % found again'
    if verdict.map is not None and verdict.float_map is not None:
        accuracy = f'mAP {100 * verdict.map:.2f} (float {100 * verdict.float_map:.2f}), {accuracy}'
    return f'{step.name}: {accuracy}, drift {verdict.drift:.4f}, {step.ms:.2f} ms ({step.speed:.2f} times float)'
