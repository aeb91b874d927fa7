"""The float network of a bundle that our exporter wrote, as a network that trains on.

The exporter keeps the names of tensors, or of the nodes that read them, so they find their places again. It folds every
normalization into the convolution before it; here the convolution takes the folded weights, and the normalization first passes
its input through, with the folded bias as its shift. Training normalizes by the statistics of its batches, which would then
undo what the scales had learned: so the statistics of some pictures are measured, and scale and shift are set such that they
cancel. The detector stays the same, and in training nearly so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnx.numpy_helper
import torch
from torch import Tensor, nn

from kd_perception.bundles.bundle import FLOAT, load_bundle
from training.errors import WeightsError
from training.models.architecture import build_network
from training.models.transfer import with_classes
from training.models.yolov4 import exported
from training.models.yolov4.network import YOLOv4
from training.seeding import in_one_thread

LARGEST_FILE = 500_000_000
BRANCHES = {'cv2': 'box_branches', 'cv3': 'score_branches'}
"""The branches of Ultralytics' head, and what the exporter calls them."""


def network_of_bundle(folder: Path, architecture: str, classes: Sequence[str], pictures: Sequence[Tensor] = ()) -> Any:
    """A network of that architecture that detects what the float network of a bundle detects.

    Args:
        folder: of the bundle, which must hold an fp32 network of ours.
        architecture: the one that it was exported from, `yolov8n.yaml`; a file or a name of Ultralytics. A YOLOv4's anchors
            are the bundle's.
        classes: to detect; outputs of classes that the bundle has go over by name, the others begin afresh.
        pictures: float32 (N, 3, H, W), RGB in 0 … 1, of which the statistics of the normalizations are measured.

    Raises:
        BundleError: no bundle, or one without a float network.
        WeightsError: the tensors do not fit the architecture.
    """
    bundle = load_bundle(folder)
    network = build_network(architecture, bundle.classes)
    graph = _Graph(folder / bundle.artifact('onnxruntime', FLOAT).file)
    try:
        if isinstance(network, YOLOv4):
            network = _yolov4(network, graph, bundle.classes)
        else:
            _fill(network, graph.convolutions)
    except WeightsError as error:
        raise WeightsError(f'{folder} does not fit {architecture}: {error}') from error
    if pictures:
        _measure_statistics(network, pictures)
    if tuple(classes) == tuple(bundle.classes):
        return network.eval()
    return with_classes(network, bundle.classes, classes).network


class _Graph:
    """What a float graph of ours holds.

    Attributes:
        size: width and height of its input.
        stored: its tensors by name.
        convolutions: weight and bias of every convolution by the name of the weight; biases that are equal share a tensor in the
            file.
        products: likewise of every matrix product.
        nodes: the convolutions by the name of the node.
    """

    def __init__(self, file: Path) -> None:
        if file.stat().st_size > LARGEST_FILE:
            raise WeightsError(f'{file} has {file.stat().st_size / 1e6:.0f} MB, more than {LARGEST_FILE / 1e6:g}')
        graph = onnx.load(str(file), load_external_data=False).graph
        stored = {item.name: torch.from_numpy(np.array(onnx.numpy_helper.to_array(item))) for item in graph.initializer}
        casts = [node for node in graph.node if node.op_type == 'Cast' and node.input[0] in stored]
        stored |= {node.output[0]: stored[node.input[0]].float() for node in casts}  # a bundle of half weights
        self.stored = stored
        self.convolutions, self.products = (
            {
                node.input[1]: (stored[node.input[1]], stored[node.input[2]])
                for node in graph.node
                if node.op_type == kind and len(node.input) == 3 and {node.input[1], node.input[2]} <= stored.keys()
            }
            for kind in ('Conv', 'Gemm')
        )
        self.nodes = {
            node.name: self.convolutions[node.input[1]]
            for node in graph.node
            if node.op_type == 'Conv' and node.input[1] in self.convolutions
        }
        sides = [side.dim_value for side in graph.input[0].type.tensor_type.shape.dim] if graph.input else []
        self.size = (sides[2], sides[1]) if len(sides) == 4 else (0, 0)


@torch.no_grad()
def _yolov4(network: YOLOv4, graph: _Graph, classes: Sequence[str]) -> YOLOv4:
    """The network with the graph's anchors, convolutions and heads."""
    anchors = exported.anchors_of(graph.stored, *graph.size, cast(tuple[int, ...], network.strides))
    filled = build_network({**network.yaml, 'anchors': anchors}, classes)
    assert isinstance(filled, YOLOv4)
    given = {exported.module_of(node): tensors for node, tensors in graph.nodes.items()}
    first = next(layer for layer in filled.modules() if isinstance(layer, nn.Conv2d))
    for name, (layer, norm) in exported.normalized(filled).items():
        if name not in given or given[name][0].shape != layer.weight.shape:
            raise WeightsError(f'{name} is missing or has another shape')
        weight, bias = given[name]
        layer.weight.copy_(_of_plain_pictures(weight) if layer is first else weight)
        _pass_through(norm, bias)
    exported.fill_heads(filled, graph.products)
    return filled


def _of_plain_pictures(weight: Tensor) -> Tensor:
    """The graph's first convolution takes bytes in blue, green, red; ours takes 0 … 1 in red, green, blue."""
    return weight.flip(1) * 255


@torch.no_grad()
def _fill(network: Any, stored: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Put the stored convolutions in their places, and let normalizations pass."""
    modules = dict(network.named_modules())
    last = len(network.model) - 1
    first = True
    for name, module in modules.items():
        if not isinstance(module, nn.Conv2d) or name.endswith('.dfl.conv'):
            continue
        where = f'{_exported_name(name, last)}.weight'
        if where not in stored or stored[where][0].shape != module.weight.shape:
            raise WeightsError(f'{where} is missing or has another shape')
        weight, bias = stored[where]
        module.weight.copy_(_of_plain_pictures(weight) if first else weight)
        first = False
        if module.bias is not None:
            module.bias.copy_(bias)
            continue
        _pass_through(modules[f'{name.removesuffix(".conv")}.bn'], bias)


def _exported_name(name: str, last: int) -> str:
    number, _, rest = name.removeprefix('model.').partition('.')
    if int(number) != last:
        return f'body.layers.{number}.{rest}'
    branch, _, inner = rest.partition('.')
    return f'head.{BRANCHES.get(branch, branch)}.{inner}'


def _pass_through(normalization: nn.Module, shift: Tensor) -> None:
    assert isinstance(normalization, nn.BatchNorm2d)
    assert normalization.running_mean is not None
    assert normalization.running_var is not None
    normalization.weight.fill_(1.0)
    normalization.bias.copy_(shift)
    normalization.running_mean.zero_()
    normalization.running_var.fill_(1.0 - normalization.eps)


@torch.no_grad()
def _measure_statistics(network: nn.Module, pictures: Sequence[Tensor]) -> None:
    """Give every normalization the mean and variance of its input, and the scale and shift that cancel them."""
    sums: dict[nn.BatchNorm2d, Tensor] = {}

    def add(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        value = inputs[0].double().transpose(0, 1).flatten(1)
        moments = torch.stack([torch.full((len(value),), float(value.shape[1])), value.sum(1), (value**2).sum(1)])
        assert isinstance(layer, nn.BatchNorm2d)
        sums[layer] = sums.get(layer, torch.zeros_like(moments)) + moments

    layers = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [layer.register_forward_pre_hook(add) for layer in layers]
    network.eval()
    with in_one_thread():  # or a training that goes on with more threads would find that it began with other bits
        for batch in pictures:
            network(batch)
    for hook in hooks:
        hook.remove()
    for layer, (count, total, squares) in sums.items():
        mean = total / count
        variance = (squares / count - mean**2).clamp(min=1e-8)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)
        layer.bias.add_(mean)
        layer.weight.copy_((variance + layer.eps).sqrt())
