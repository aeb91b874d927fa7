"""Turns an ONNX detector into ncnn's own form: a text of layers and the weights, held in memory.

ncnn has no batch axis, gives every blob exactly one reader, and wants what ONNX keeps in constants as layer parameters. Shapes
are followed through the graph, so it must state all sizes.
"""

from __future__ import annotations

from collections.abc import Mapping

from kd_perception.bundles.onnx_graph import Graph
from kd_perception.engines.ncnn_conversion import arithmetic, pictures, shapes
from kd_perception.engines.ncnn_conversion.network import Layer, NcnnNetwork, write_stages
from kd_perception.engines.ncnn_conversion.walk import Translation, Walk
from kd_perception.errors import EngineError

TRANSLATIONS: Mapping[str, Translation] = {
    **shapes.TRANSLATIONS,
    **pictures.TRANSLATIONS,
    **arithmetic.TRANSLATIONS,
}
"""ONNX operation → what adds its layers."""


def convert(graph: Graph, shape: tuple[int, ...], apart: bool = False) -> NcnnNetwork:
    """Convert a graph.

    Args:
        graph: float or uint8 input; no quantization.
        shape: of the input with the batch axis, for graphs that leave sizes open.
        apart: make the part behind the last convolutions a stage of its own, which can stay in FP32 when the convolutions run in
            half precision: boxes are in pixels there, and fp16 rounds them to half a pixel at 1024. (ncnn's own mask for single
            layers misreads what comes from layers without it.)

    Raises:
        EngineError: an operation, or a form of it, that is not translated.
    """
    if shape[0] != 1:
        raise EngineError('ncnn runs one image at a time')
    try:
        return _convert(Walk(graph, shape), apart)
    except (ValueError, KeyError, IndexError, TypeError, ZeroDivisionError, OverflowError) as error:
        raise EngineError(
            f'ncnn: the network contradicts itself, or has a form that is not translated ({error!r})'
        ) from error


def _convert(walk: Walk, apart: bool) -> NcnnNetwork:
    for node in walk.graph.nodes:
        translate = TRANSLATIONS.get(node.op)
        if translate is None:
            raise EngineError(f'ncnn: the operation {node.op} is not translated; run this network on onnxruntime')
        translate(walk, node)
    outputs = {}
    for value in walk.graph.outputs:
        blob = walk.blob(value.name, len(value.shape))
        outputs[value.name] = blob.shape
        # Under the name of the output, which a blob shared with another layer could not have.
        walk.layers.append(Layer('Noop', [blob.name], [value.name], {}))
    return NcnnNetwork(write_stages(walk.layers, outputs, apart), walk.planar, outputs)
