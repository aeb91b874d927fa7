"""Which layers INT8 hurts: every layer quantized alone, and every layer alone left in float, against the float network.

A layer is a convolution or product with what follows it up to the next: batch norm, activation function, concatenation.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from tqdm import tqdm

from training.errors import QuantizationError
from training.quantize.calibration import Image
from training.quantize.float_parts import COMPUTING
from training.quantize.qdq import QuantizeSettings, float_nodes, quantize_model, ranges_of, with_shapes

FloatArray = npt.NDArray[np.float32]
ASKED_SCORE = 0.05
"""Drift is asked of where the float network sees at least this of any class: elsewhere boxes mean nothing."""


@dataclass(frozen=True)
class Layer:
    """What is quantized together.

    Attributes:
        name: of its convolution's module.
        nodes: names of the ONNX nodes.
        weights: number of weights; left in float, each costs 3 bytes more.
    """

    name: str
    nodes: tuple[str, ...]
    weights: int


@dataclass(frozen=True)
class Drift:
    """How far a network is from the float one.

    Attributes:
        score: mean over the asked boxes of the largest difference of a class's score.
        box: mean over them of 1 − IoU.
    """

    score: float
    box: float

    @property
    def total(self) -> float:
        """Both together; 0 is the float network itself."""
        return self.score + self.box


@dataclass(frozen=True)
class Sensitivity:
    """What quantizing one layer does.

    Attributes:
        layer: which.
        alone: drift with only this layer in INT8.
        restored: drift with all but this layer in INT8.
        extra_bytes: what the file grows by when the layer stays in float.
        extra_ms: what an inference takes longer then; differences of medians, so small ones are noise.
    """

    layer: Layer
    alone: Drift
    restored: Drift
    extra_bytes: int
    extra_ms: float


@dataclass(frozen=True)
class SensitivityTable:
    """All layers of a network.

    Attributes:
        all_int8: drift with every layer in INT8.
        int8_ms: median time of an inference with every layer in INT8.
        float_ms: of the float network.
        rows: in the network's order.
    """

    all_int8: Drift
    int8_ms: float
    float_ms: float
    rows: tuple[Sensitivity, ...] = field(default_factory=tuple)

    def worst_first(self) -> list[Sensitivity]:
        """The rows by falling gain from leaving the layer in float."""
        return sorted(self.rows, key=lambda row: row.restored.total)

    def gain(self, row: Sensitivity) -> float:
        """How much drift goes away when the layer stays in float."""
        return self.all_int8.total - row.restored.total

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def to_csv(self) -> str:
        """One line a layer, in the network's order."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(['layer', 'weights', 'alone_score', 'alone_box', 'restored_score', 'restored_box', 'extra_ms'])
        for row in self.rows:
            drifts = (row.alone.score, row.alone.box, row.restored.score, row.restored.box)
            writer.writerow([row.layer.name, row.layer.weights, *(f'{d:.6f}' for d in drifts), f'{row.extra_ms:.3f}'])
        return text.getvalue()

    def to_markdown(self, count: int | None = None) -> str:
        """The worst layers as a table."""
        lines = [
            '| layer | weights | drift, this alone in INT8: score, box | drift, this alone in float: score, box | gain |',
            '|---|---|---|---|---|',
        ]
        for row in self.worst_first()[:count]:
            lines.append(
                f'| `{row.layer.name}` | {row.layer.weights} | {row.alone.score:.5f}, {row.alone.box:.5f} '
                f'| {row.restored.score:.5f}, {row.restored.box:.5f} | {100 * self.gain(row) / self.all_int8.total:+.1f} % |'
            )
        return '\n'.join(lines)


def layers(graph: onnx.GraphProto, settings: QuantizeSettings) -> list[Layer]:
    """The layers that the settings quantize, in the network's order."""
    left = set(float_nodes(graph, settings))
    weights = {constant.name: constant for constant in graph.initializer}
    owner: dict[str, str] = {}
    members: dict[str, list[str]] = {}
    order: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for number, node in enumerate(graph.node):
        if node.op_type in COMPUTING:
            name = node.name
            order[name] = number
            sizes[name] = sum(int(np.prod(weights[k].dims)) for k in node.input[1:2] if k in weights)
        else:
            owners = [owner[value] for value in node.input if value in owner]
            if not owners:
                continue
            name = max(owners, key=order.__getitem__)
        for value in node.output:
            owner[value] = name
        if node.name not in left and node.op_type in settings.kinds:
            members.setdefault(name, []).append(node.name)
    return [Layer(_short(name), tuple(nodes), sizes[name]) for name, nodes in members.items() if name not in left]


def _short(name: str) -> str:
    """`/body/layers.2/m.0/cv1/conv/Conv` → `2.m.0.cv1`."""
    parts = [part for part in name.split('/')[:-1] if part and part not in ('body', 'head', 'conv')]
    kept = [part for part, after in zip(parts, [*parts[1:], ''], strict=True) if not after.startswith(f'{part}.')]
    return '.'.join(kept).removeprefix('layers.') or name


class Judge:
    """The float network's answers on some images, with which others are compared.

    Args:
        model: the float network.
        images: as the network sees them, uint8 (H, W, 3).
        threads: CPU threads of an inference.

    Raises:
        QuantizationError: the float network finds nothing on these images.
    """

    def __init__(self, model: onnx.ModelProto, images: Sequence[Image], threads: int = 1) -> None:
        self._images = images
        self._threads = threads
        self._wanted: list[tuple[FloatArray, FloatArray]] = []
        self._asked: list[npt.NDArray[np.bool_]] = []
        times = []
        for boxes, scores, seconds in self._answers(model):
            self._wanted.append((boxes, scores))
            self._asked.append(scores.max(axis=1) >= ASKED_SCORE)
            times.append(seconds)
        if not any(asked.any() for asked in self._asked):
            raise QuantizationError(
                f'the float network finds nothing with a score of {ASKED_SCORE} on these images; take others, or train it first'
            )
        self.float_ms = 1e3 * float(np.median(times))

    def drift(self, model: onnx.ModelProto) -> tuple[Drift, float]:
        """The drift of a network, and the median time of its inferences in ms."""
        scores_off, boxes_off, times = [], [], []
        for (boxes, scores, seconds), wanted, asked in zip(
            self._answers(model), self._wanted, self._asked, strict=True
        ):
            scores_off.append(np.abs(scores - wanted[1])[asked].max(axis=1))
            boxes_off.append(1 - overlap(boxes[asked], wanted[0][asked]))
            times.append(seconds)
        return (
            Drift(float(np.concatenate(scores_off).mean()), float(np.concatenate(boxes_off).mean())),
            1e3 * float(np.median(times)),
        )

    def _answers(self, model: onnx.ModelProto) -> list[tuple[FloatArray, FloatArray, float]]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=['CPUExecutionProvider'])
        name = session.get_inputs()[0].name
        answers = []
        for image in self._images:
            started = time.perf_counter()
            boxes, scores = session.run(['boxes', 'scores'], {name: image[None]})
            answers.append((boxes[0], scores[0], time.perf_counter() - started))
        return answers


def overlap(first: FloatArray, second: FloatArray) -> npt.NDArray[np.float64]:
    """IoU of boxes pair by pair, (N, 4) each; 0 for a pair without area."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    common = np.maximum(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0).prod(axis=1)
    union = _area(a) + _area(b) - common
    shares: npt.NDArray[np.float64] = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return shares


def _area(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    area: npt.NDArray[np.float64] = np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1)
    return area


def sensitivity(
    source: Path,
    images: Sequence[Image],
    settings: QuantizeSettings,
    *,
    judged: Sequence[Image] = (),
    threads: int = 1,
) -> SensitivityTable:
    """Measure every layer.

    Args:
        source: a float network in the `boxes_scores` layout.
        images: calibration images.
        settings: how layers are quantized.
        judged: images on which the drift is measured; the calibration images by default.
        threads: CPU threads of an inference.

    Raises:
        QuantizationError: nothing to calibrate with, or nothing found on the images.
    """
    model = with_shapes(source)
    left = float_nodes(model.graph, settings)
    ranges = ranges_of(model, images, settings)
    judge = Judge(model, judged or images, threads)
    all_int8, int8_ms = judge.drift(quantize_model(model, ranges, settings, left))
    rows = []
    for layer in tqdm(layers(model.graph, settings), 'sensitivity', unit='layer', disable=None):
        alone, _ = judge.drift(quantize_model(model, ranges, settings, left, layer.nodes))
        restored, milliseconds = judge.drift(quantize_model(model, ranges, settings, [*left, *layer.nodes]))
        rows.append(Sensitivity(layer, alone, restored, 3 * layer.weights, milliseconds - int8_ms))
    return SensitivityTable(all_int8, int8_ms, judge.float_ms, tuple(rows))


def write_table(table: SensitivityTable, folder: Path) -> None:
    """Leave sensitivity.csv, .json, .md and .svg in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'sensitivity.csv').write_text(table.to_csv(), encoding='utf-8')
    (folder / 'sensitivity.json').write_text(json.dumps(table.to_json(), indent=1), encoding='utf-8')
    (folder / 'sensitivity.md').write_text(table.to_markdown() + '\n', encoding='utf-8')
    _plot(table, folder / 'sensitivity.svg')


def _plot(table: SensitivityTable, file: Path) -> None:
    from matplotlib.figure import Figure

    names = [row.layer.name for row in table.rows]
    at = np.arange(len(names))
    figure = Figure(figsize=(max(6, 0.2 * len(names)), 5.5), layout='constrained')
    upper, lower = figure.subplots(2, 1, sharex=True)
    upper.bar(at, [row.alone.score for row in table.rows], label='score')
    upper.bar(at, [row.alone.box for row in table.rows], bottom=[row.alone.score for row in table.rows], label='box')
    upper.set_ylabel('drift,\nonly this layer in INT8')
    upper.legend()
    lower.bar(at, [100 * table.gain(row) / table.all_int8.total for row in table.rows], color='tab:green')
    lower.set_ylabel('% of the drift gone,\nonly this layer in float')
    lower.set_xticks(at, names, rotation=90, fontsize=6)
    figure.savefig(file, metadata={'Date': None})
