"""A float network of anybody's exporter made ready for INT8: one opset, named nodes, folded batch norms, plain convolutions.

Nothing here changes what the network computes, beyond the last bits of a sum. A graph of our own exporter passes as it is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper, version_converter

from training.errors import QuantizationError

OLDEST_OPSET = 13
"""Since then scales per channel can be written."""
OPSET = 17
OLDEST_IR = 4
"""Since then weights need not be inputs of the graph."""
_STANDARD = ('', 'ai.onnx')
Array = npt.NDArray[Any]
Maker = Mapping[str, onnx.NodeProto]


def read_network(source: Path, shape: Sequence[int] = ()) -> onnx.ModelProto:
    """A float network, ready.

    Args:
        source: its ONNX file.
        shape: of its input, for graphs that leave sizes open.

    Raises:
        QuantizationError: the file cannot be read, or its operators are not those of the ONNX standard.
    """
    try:
        model = onnx.load_model_from_string(source.read_bytes())
        foreign = sorted({f'{node.domain}.{node.op_type}' for node in model.graph.node if node.domain not in _STANDARD})
        if foreign:
            raise QuantizationError(
                f'{source} holds {", ".join(foreign[:3])}, not of the ONNX standard: export it anew'
            )
        _only_pictures_as_inputs(model)
        if shape:
            _fix_shape(model, shape)
        if not _is_ready(model):
            model = _optimized(_converted(model))
            _name(model.graph)
        focus_to_convolution(model.graph)
        return onnx.shape_inference.infer_shapes(model)
    except QuantizationError:
        raise
    except Exception as error:  # protobuf, onnx and ONNX Runtime raise what they like
        raise QuantizationError(
            f'{source} cannot be read as an ONNX network: {" ".join(str(error).split())}'
        ) from error


def opset(model: onnx.ModelProto) -> int:
    """The version of the standard operators."""
    return max((entry.version for entry in model.opset_import if entry.domain in _STANDARD), default=0)


def _is_ready(model: onnx.ModelProto) -> bool:
    names = [node.name for node in model.graph.node]
    kinds = {node.op_type for node in model.graph.node}
    weights = {weight.name for weight in model.graph.initializer}
    if any(node.op_type == 'Cast' and node.input[0] in weights for node in model.graph.node):
        return False  # weights kept in float16
    unique = all(names) and len(set(names)) == len(names)
    return unique and opset(model) >= OLDEST_OPSET and not kinds & {'Constant', 'BatchNormalization', 'Identity'}


def _only_pictures_as_inputs(model: onnx.ModelProto) -> None:
    """Take the weights out of the graph's inputs, where exporters before 2020 list them: then nobody may count on them."""
    known = constants(model.graph)
    inputs = [value for value in model.graph.input if value.name not in known]
    if len(inputs) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, OLDEST_IR)


def _fix_shape(model: onnx.ModelProto, shape: Sequence[int]) -> None:
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if len(dims) != len(shape) or all(dim.dim_value for dim in dims):
            continue
        for dim, size in zip(dims, shape, strict=True):
            dim.dim_value = size
        del model.graph.value_info[:]  # shapes that were left open
        for output in model.graph.output:
            output.type.tensor_type.ClearField('shape')


def _converted(model: onnx.ModelProto) -> onnx.ModelProto:
    if opset(model) >= OLDEST_OPSET:
        return model
    for node in model.graph.node:
        if node.op_type == 'Resize' and len(node.input) == 4 and node.input[3]:
            node.input[1] = node.input[2] = ''  # opset 11 wanted empty ones beside sizes; later ones refuse them
    return version_converter.convert_version(model, OPSET)


def _optimized(model: onnx.ModelProto) -> onnx.ModelProto:
    """ONNX Runtime's basic rewrites: constants computed, batch norms folded, identities gone."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        settings = onnxruntime.SessionOptions()
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        settings.optimized_model_filepath = str(Path(folder) / 'basic.onnx')
        settings.log_severity_level = 4
        onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=['CPUExecutionProvider'])
        rewritten = onnx.load(settings.optimized_model_filepath)
    if any(node.domain not in _STANDARD for node in rewritten.graph.node):
        return model
    domains = [entry for entry in rewritten.opset_import if entry.domain in _STANDARD]
    del rewritten.opset_import[:]
    rewritten.opset_import.extend(domains)
    return rewritten


def _name(graph: onnx.GraphProto) -> None:
    """Every node a name of its own."""
    taken: set[str] = set()
    for number, node in enumerate(graph.node):
        if not node.name or node.name in taken:
            node.name = f'{node.op_type}_{number}'
        while node.name in taken:
            node.name += '_'
        taken.add(node.name)


def makers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """By the name of a tensor, the node that writes it."""
    return {name: node for node in graph.node for name in node.output}


def nodes_behind(graph: onnx.GraphProto, tensors: Sequence[str], known: Collection[str] = ()) -> list[onnx.NodeProto]:
    """The nodes that some tensors are computed by, in the graph's order; those behind what is known are left out."""
    maker, wanted, waiting = makers(graph), set(), [*tensors]
    while waiting:
        name = waiting.pop()
        node = None if name in known else maker.get(name)
        if node is not None and node.name not in wanted:
            wanted.add(node.name)
            waiting += node.input
    return [node for node in graph.node if node.name in wanted]


def readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """By the name of a tensor, the nodes that read it."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in dict.fromkeys(node.input):
            found.setdefault(name, []).append(node)
    return found


def constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """The weights by name."""
    return {constant.name: constant for constant in graph.initializer}


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """An attribute's value."""
    return next((helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name), default)


def is_depthwise(node: onnx.NodeProto, weight: onnx.TensorProto) -> bool:
    """Whether a convolution reads one channel for each that it writes."""
    group = int(attribute(node, 'group', 1))
    return node.op_type == 'Conv' and group > 1 and group == weight.dims[0] and weight.dims[1] == 1


def convolutions(graph: onnx.GraphProto, without: Iterable[str] = ()) -> list[onnx.NodeProto]:
    """The convolutions with constant weights, in order, but those of these names."""
    known, left = constants(graph), {*without}
    return [node for node in graph.node if node.op_type == 'Conv' and node.input[1] in known and node.name not in left]


def focus_to_convolution(graph: onnx.GraphProto) -> int:
    """Write "every second pixel, four ways, joined, then a convolution" (YOLOX, YOLOv5) as one convolution of twice the stride.

    The slices read the picture four times in float, whatever the convolution behind them computes in.

    Returns:
        How many were rewritten.
    """
    maker, weights = makers(graph), constants(graph)
    count = 0
    for node in convolutions(graph):
        joined = maker.get(node.input[0])
        if joined is None or joined.op_type != 'Concat' or list(attribute(node, 'strides', [1, 1])) != [1, 1]:
            continue
        phases = [_phase(name, maker, weights) for name in joined.input]
        sources = {source for source, _ in phases}
        plain = attribute(node, 'group', 1) == 1 and list(attribute(node, 'dilations', [1, 1])) == [1, 1]
        if not plain or len(phases) != 4 or len(sources) != 1 or len({place for _, place in phases} - {None}) != 4:
            continue
        _fold_phases(graph, node, sources.pop(), [place for _, place in phases if place is not None])
        count += 1
    if count:
        _drop_unread(graph)
    return count


def _phase(tensor: str, maker: Maker, weights: Mapping[str, onnx.TensorProto]) -> tuple[str, tuple[int, int] | None]:
    """What slices of every second row and column read, and where they begin; None where they are something else."""
    begins: dict[int, int] = {}
    while (node := maker.get(tensor)) is not None and node.op_type == 'Slice':
        if len(node.input) != 5 or not all(name in weights for name in node.input[1:]):
            return tensor, None
        starts, ends, axes, steps = (numpy_helper.to_array(weights[name]).tolist() for name in node.input[1:])
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            if axis % 4 not in (2, 3) or step != 2 or start not in (0, 1) or end < 1 << 30 or axis % 4 in begins:
                return tensor, None
            begins[axis % 4] = start
        tensor = node.input[0]
    return tensor, (begins[2], begins[3]) if len(begins) == 2 else None


def _fold_phases(graph: onnx.GraphProto, node: onnx.NodeProto, source: str, places: Sequence[tuple[int, int]]) -> None:
    old = numpy_helper.to_array(constants(graph)[node.input[1]])
    channels = old.shape[1] // 4
    new = np.zeros((old.shape[0], channels, 2 * old.shape[2], 2 * old.shape[3]), old.dtype)
    for number, (row, column) in enumerate(places):
        new[:, :, row::2, column::2] = old[:, number * channels : (number + 1) * channels]
    name = f'{node.input[1]}_of_pixels'
    graph.initializer.append(numpy_helper.from_array(new, name))
    pads = [2 * int(pad) for pad in attribute(node, 'pads', [0, 0, 0, 0])]
    node.input[0], node.input[1] = source, name
    del node.attribute[:]
    for key, value in {'kernel_shape': new.shape[2:], 'strides': (2, 2), 'pads': pads}.items():
        node.attribute.append(helper.make_attribute(key, list(value)))


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Remove nodes and weights that nobody reads any more."""
    while True:
        needed = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
        kept = [node for node in graph.node if needed.intersection(node.output)]
        if len(kept) == len(graph.node):
            break
        del graph.node[:]
        graph.node.extend(kept)
    weights = [constant for constant in graph.initializer if constant.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(weights)
