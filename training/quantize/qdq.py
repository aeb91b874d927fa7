"""INT8 for ONNX Runtime on CPUs: QDQ graph, unsigned activations, signed weights per channel, the tail in float.

The tail is everything from the outputs back to the last convolution of each branch. It joins numbers of unlike size
(box distances, logits, anchors); quantized it ruins the detector. It is found by walking the graph, whatever the nodes
are named.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from training.errors import QuantizationError

Image = npt.NDArray[np.uint8]
COMPUTING = frozenset({'Conv', 'ConvTranspose', 'Gemm', 'MatMul'})


@dataclass(frozen=True)
class QuantizeSettings:
    """How a network is quantized.

    Attributes:
        method: how ranges come from the calibration images: `minmax`, `percentile` or `entropy`.
        percentile: share kept by `percentile`, in percent.
        per_channel: one weight scale per output channel instead of one per tensor.
        first_convolution_float: leave the convolution that reads the pixels in float; with three channels INT8 gains nothing.
        last_convolutions_float: leave the last convolution of each branch in float too; they are small.
        float_nodes: further nodes that stay in float, by name.
    """

    method: str = 'minmax'
    percentile: float = 99.99
    per_channel: bool = True
    first_convolution_float: bool = True
    last_convolutions_float: bool = True
    float_nodes: tuple[str, ...] = ()


class _Images(CalibrationDataReader):
    def __init__(self, name: str, images: Sequence[Image]) -> None:
        self._feeds = iter([{name: image[None]} for image in images])

    def get_next(self) -> dict[str, Image] | None:
        return next(self._feeds, None)


def quantize(source: Path, target: Path, images: Sequence[Image], settings: QuantizeSettings) -> list[str]:
    """Quantize an ONNX network.

    Args:
        source: a float network with one uint8 image as input.
        target: file to write.
        images: calibration images as the network sees them, uint8 (H, W, 3).

    Returns:
        The names of the nodes that stayed in float.

    Raises:
        QuantizationError: no images, an unknown method, or a named node that does not exist.
    """
    methods = {
        'minmax': CalibrationMethod.MinMax,
        'percentile': CalibrationMethod.Percentile,
        'entropy': CalibrationMethod.Entropy,
    }
    if settings.method not in methods:
        raise QuantizationError(f'unknown calibration method {settings.method!r}; choose one of {", ".join(methods)}')
    if not images:
        raise QuantizationError('calibration needs images')
    graph = onnx.load(source)
    named = {node.name for node in graph.graph.node}
    unknown = [name for name in settings.float_nodes if name not in named]
    if unknown:
        raise QuantizationError(f'{source} has no node {", ".join(unknown)}')
    left = {*tail(graph.graph, settings.last_convolutions_float), *settings.float_nodes}
    if settings.first_convolution_float:
        left.update(front(graph.graph))
    with tempfile.TemporaryDirectory() as scratch:
        inferred = os.path.join(scratch, 'inferred.onnx')
        onnx.save(onnx.shape_inference.infer_shapes(graph), inferred)
        quantize_static(
            inferred,
            str(target),
            _Images(graph.graph.input[0].name, images),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=settings.per_channel,
            calibrate_method=methods[settings.method],
            nodes_to_exclude=sorted(left),
            extra_options={'CalibPercentile': settings.percentile},
        )
    return sorted(left)


def tail(graph: onnx.GraphProto, with_convolutions: bool = True) -> list[str]:
    """Names of the nodes from the outputs back to the last convolution of each branch.

    Args:
        with_convolutions: whether those convolutions belong to the tail.
    """
    maker = {name: node for node in graph.node for name in node.output}
    waiting = [output.name for output in graph.output]
    seen: dict[str, None] = {}
    while waiting:
        node = maker.get(waiting.pop())
        if node is None or node.name in seen:
            continue
        if node.op_type in COMPUTING:
            if with_convolutions:
                seen[node.name] = None
            continue
        seen[node.name] = None
        waiting += node.input
    return list(seen)


def front(graph: onnx.GraphProto) -> list[str]:
    """Names of the nodes from the inputs up to and with the first convolution of each branch."""
    reached = {value.name for value in graph.input}
    seen = []
    for node in graph.node:  # in topological order, as ONNX demands
        if reached.isdisjoint(node.input):
            continue
        seen.append(node.name)
        if node.op_type not in COMPUTING:
            reached.update(node.output)
    return seen


def calibration_hash(images: Sequence[Image]) -> str:
    """SHA-256 over the pixels of the calibration images, in order: the same hash means the same ranges."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()
