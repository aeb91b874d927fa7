"""Calibration: from images to the range of every activation: extremes, a percentile, or the least loss of information or error.

Memory stays bounded however many images there are: extremes are taken in the graph, and distributions are kept as histograms.
ONNX Runtime's own "entropy" gives the extremes, because its histogram has as many bins as INT8 has levels; this one does not.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper
from tqdm import tqdm

from training.errors import QuantizationError

Image = npt.NDArray[Any]
"""A picture as the network takes it, without the axis of the batch."""
Counts = npt.NDArray[np.int64]
Range = tuple[float, float]
Function = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
Ranges = Mapping[str, Range]

METHODS = ('minmax', 'entropy', 'percentile', 'mse')
BINS = 4096
"""Of a histogram from −reach to reach; 16 for each of the 256 levels."""
CANDIDATES = 96
"""Clipping thresholds that `entropy` tries for each tensor."""
MOST_VALUES = 1 << 16
"""Of a tensor in one image that a histogram counts, evenly spread; extremes are taken of all."""
STEPS_OF_MSE = np.geomspace(1, 1 / 32, 32)
"""Shares of the extremes at which `mse` tries to clip."""
MOST_BYTES = 512 << 20
"""Activations of one image that are held at once; where a network has more, the image runs several times."""


def calibration_hash(images: Sequence[Image]) -> str:
    """SHA-256 over the pixels of the calibration images, in order: the same hash means the same ranges."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()


def calibrate(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    images: Sequence[Image],
    method: str = 'minmax',
    *,
    percentile: float = 99.99,
    symmetric: bool = False,
    functions: Mapping[str, Function] | None = None,
) -> dict[str, Range]:
    """The range of each tensor over the images; 0 always lies in it.

    Args:
        model: with one image as input, shapes inferred.
        tensors: names of float activations in it.
        images: as the network takes them, without the axis of the batch.
        method: `minmax` takes the extremes; `percentile` and `entropy` clip them to a magnitude: below it lies that share of the
            values, or clipped there the quantized distribution differs least from the float one (Kullback-Leibler divergence,
            Migacz, "8-bit Inference with TensorRT", GTC 2017). `mse` takes the range with the least mean squared error.
        percentile: share kept by `percentile`, in percent.
        symmetric: whether the quantized range will reach as far below 0 as above; `entropy` and `mse` ask.
        functions: by the name of a tensor the activation function that reads it; `mse` then takes the error behind it.

    Raises:
        QuantizationError: no images, or an unknown method.
    """
    return Observed(model, tensors, images).ranges(
        method, percentile=percentile, symmetric=symmetric, functions=functions
    )


class Observed:
    """What some activations were on the images; each pass over them is made once, when a method first needs it.

    Args:
        model: with one image as input, shapes inferred.
        tensors: names of float activations in it.
        images: as the network takes them, without the axis of the batch.
    """

    def __init__(self, model: onnx.ModelProto, tensors: Sequence[str], images: Sequence[Image]) -> None:
        if not images:
            raise QuantizationError('calibration needs images')
        self._model, self._tensors, self._images = model, tensors, images

    @cached_property
    def extremes(self) -> dict[str, Range]:
        """Smallest and largest value of each tensor; 0 always lies between."""
        return _extremes(self._model, self._tensors, self._images)

    @cached_property
    def _counts(self) -> dict[str, Counts]:
        return _histograms(self._model, self.extremes, self._images)

    def ranges(
        self,
        method: str,
        *,
        percentile: float = 99.99,
        symmetric: bool = False,
        functions: Mapping[str, Function] | None = None,
    ) -> dict[str, Range]:
        """The range of each tensor by a method, see `calibrate`."""
        if method not in METHODS:
            raise QuantizationError(f'unknown calibration method {method!r}; choose one of {", ".join(METHODS)}')
        if method == 'minmax':
            return dict(self.extremes)
        ranges = {}
        for name, counts in self._counts.items():
            low, high = self.extremes[name]
            reach = max(-low, high)
            if method == 'mse':
                function = (functions or {}).get(name)
                ranges[name] = mse_range(counts, reach, low, high, symmetric=symmetric, function=function)
                continue
            if method == 'percentile':
                limit = percentile_limit(counts, reach, percentile)
            else:
                limit = entropy_limit(counts, reach, low, high, symmetric=symmetric)
            ranges[name] = (max(low, -limit), min(high, limit))
        return ranges


def _extremes(model: onnx.ModelProto, tensors: Sequence[str], images: Sequence[Image]) -> dict[str, Range]:
    """Extremes over all images. The graph itself reduces each tensor to two numbers."""
    graph = onnx.ModelProto()
    graph.CopyFrom(model)
    del graph.graph.output[:]
    for number, name in enumerate(tensors):
        for kind in ('ReduceMin', 'ReduceMax'):
            output = f'{kind}_{number}'
            graph.graph.node.append(helper.make_node(kind, [name], [output], keepdims=0))
            graph.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, []))
    low, high = np.zeros(len(tensors)), np.zeros(len(tensors))
    for values in run(graph, images, 'calibrating: extremes'):
        low = np.minimum(low, values[0::2])
        high = np.maximum(high, values[1::2])
    finite = np.isfinite(low) & np.isfinite(high)
    if not finite.all():
        raise QuantizationError(f'{tensors[int(finite.argmin())]} is not finite on the calibration images')
    return {name: (float(low[k]), float(high[k])) for k, name in enumerate(tensors)}


def _histograms(model: onnx.ModelProto, extremes: Ranges, images: Sequence[Image]) -> dict[str, Counts]:
    counts = {name: np.zeros(BINS, np.int64) for name in extremes}
    groups = list(_groups(model, list(extremes)))
    for number, group in enumerate(groups, 1):
        graph = onnx.ModelProto()
        graph.CopyFrom(model)
        del graph.graph.output[:]
        graph.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in group)
        for values in run(graph, images, f'calibrating: distributions {number}/{len(groups)}'):
            for name, value in zip(group, values, strict=True):
                counts[name] += histogram(_some(value), max(-extremes[name][0], extremes[name][1]))
    return counts


def _groups(model: onnx.ModelProto, tensors: Sequence[str]) -> Iterator[list[str]]:
    """Tensors in groups that fit into memory together."""
    shapes = {
        value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)
    }
    group: list[str] = []
    held = 0
    for name in tensors:
        size = 4 * math.prod(shapes.get(name, []))
        if group and held + size > MOST_BYTES:
            yield group
            group, held = [], 0
        group.append(name)
        held += size
    if group:
        yield group


def run(
    model: onnx.ModelProto, images: Sequence[Image], what: str, *, as_written: bool = False
) -> Iterator[list[npt.NDArray[np.float32]]]:
    """The outputs of a network for each image, see `session_of`."""
    session = session_of(model, as_written=as_written)
    name = session.get_inputs()[0].name
    for image in tqdm(images, what, unit='image', leave=False, disable=None):
        yield session.run(None, {name: image[None]})


def session_of(model: onnx.ModelProto, *, as_written: bool = False) -> Any:
    """A network in ONNX Runtime on the CPU; `as_written` without its rewrites of the graph."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    if as_written:
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.add_session_config_entry(
        'session.intra_op.allow_spinning', '0'
    )  # waiting threads leave the processor to others
    return onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=['CPUExecutionProvider'])


def _some(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """At most so many values as a histogram counts; the odd step meets every row, column and channel."""
    flat = values.reshape(-1)
    return flat[:: (len(flat) // MOST_VALUES) | 1] if len(flat) > MOST_VALUES else flat


def histogram(values: npt.NDArray[np.float32], reach: float) -> Counts:
    """Counts (BINS,) of values from −reach to reach."""
    if reach == 0:
        counts = np.zeros(BINS, np.int64)
        counts[BINS // 2] = values.size
        return counts
    scaled = (values.reshape(-1) + np.float32(reach)) * np.float32(BINS / (2 * reach))
    return np.bincount(np.clip(scaled, 0, BINS - 1).astype(np.int32), minlength=BINS)


def percentile_limit(counts: Counts, reach: float, percentile: float) -> float:
    """The magnitude below which lie `percentile` percent of the values, to one bin."""
    half = len(counts) // 2
    magnitudes = counts[half:] + counts[:half][::-1]
    share = np.cumsum(magnitudes) / max(magnitudes.sum(), 1)
    return reach * (int(np.searchsorted(share, percentile / 100)) + 1) / half


def entropy_limit(counts: Counts, reach: float, low: float, high: float, *, symmetric: bool) -> float:
    """The magnitude at which clipping loses the least information (`calibrate` says which).

    Args:
        counts: histogram from −reach to reach.
        low: smallest value seen.
        high: largest.
        symmetric: whether the levels reach as far below 0 as above, 255 of them; otherwise 256 lie between the clipped extremes.
    """
    half = len(counts) // 2
    levels = 255 if symmetric else 256
    first_bin = int((low + reach) / (2 * reach) * len(counts)) if reach else 0
    last_bin = math.ceil((high + reach) / (2 * reach) * len(counts)) if reach else len(counts)
    best, best_loss = half, math.inf
    for limit in np.unique(np.linspace(levels // 2, half, CANDIDATES).round().astype(int))[::-1]:
        first, last = half - int(limit), half + int(limit)
        if not symmetric:
            first, last = max(first, first_bin), min(last, last_bin)
        loss = _divergence(counts, first, last, levels)
        if loss < best_loss:
            best, best_loss = int(limit), loss
    return reach * best / half


def mse_range(
    counts: Counts, reach: float, low: float, high: float, *, symmetric: bool, function: Function | None = None
) -> Range:
    """The range within `low` … `high` whose rounding has the least mean squared error.

    Args:
        counts: histogram from −reach to reach.
        low: smallest value seen.
        high: largest.
        symmetric: whether the levels reach as far below 0 as above.
        function: the error is taken behind it.
    """
    if reach == 0:
        return low, high
    centers = (np.arange(len(counts)) + 0.5) * (2 * reach / len(counts)) - reach
    values, weights = centers[counts > 0], counts[counts > 0]
    wanted = function(values) if function else values

    def error(least: float, most: float) -> float:
        rounded = _rounded(values, least, most, symmetric=symmetric)
        return float(weights @ np.square((function(rounded) if function else rounded) - wanted))

    best = (low, high)
    if symmetric:
        reaches = [min(STEPS_OF_MSE, key=lambda share: error(-reach * share, reach * share)) * reach]
        return max(low, -reaches[0]), min(high, reaches[0])
    for _ in range(2):  # one end after the other
        best = best[0], high * min(STEPS_OF_MSE, key=lambda share: error(best[0], high * share))
        best = low * min(STEPS_OF_MSE, key=lambda share: error(low * share, best[1])), best[1]
    return float(best[0]), float(best[1])


def _rounded(values: npt.NDArray[np.float64], low: float, high: float, *, symmetric: bool) -> npt.NDArray[np.float64]:
    if symmetric:
        scale = max(-low, high) / 127
        return np.asarray(np.clip(np.round(values / scale), -127, 127) * scale)
    scale = (high - low) / 255
    zero = np.round(-low / scale)
    return np.asarray((np.clip(np.round(values / scale) + zero, 0, 255) - zero) * scale)


def _divergence(counts: Counts, first: int, last: int, levels: int) -> float:
    """KL divergence of the distribution clipped to the bins first … last − 1 from the same on `levels` levels."""
    inside = counts[first:last].astype(np.float64)
    clipped = inside.copy()
    clipped[0] += counts[:first].sum()
    clipped[-1] += counts[last:].sum()
    level = np.arange(len(inside)) * levels // len(inside)
    mass = np.bincount(level, inside, levels)
    filled = np.bincount(level, inside > 0, levels)
    quantized = np.where(inside > 0, (mass / np.maximum(filled, 1))[level], 0)
    if not quantized.sum():
        return math.inf
    wanted, given = clipped / clipped.sum(), quantized / quantized.sum()
    asked = wanted > 0
    return float(np.sum(wanted[asked] * np.log(wanted[asked] / np.maximum(given[asked], 1e-12))))
