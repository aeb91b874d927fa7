"""Export of a YOLO detector as ONNX in the `boxes_scores` layout, and the proof that it computes what torch computes.

The graph takes a letterboxed uint8 image (1, H, W, 3), BGR, and returns `boxes` (1, N, 4), x1 y1 x2 y2 in input pixels, and
`scores` (1, N, C) in 0 … 1. Channel order and the division by 255 cost nothing: they are in the first convolution's weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxslim
import torch
from torch import nn

from training.errors import ExportError

OPSET = 17
"""ONNX Runtime 1.16, the oldest that our robots have, reads up to 19; TensorRT 8.6 reads 17."""

SCORE_TOLERANCE = 1e-3
BOX_TOLERANCE_PX = 0.05
ASKED_SCORE = 0.05
"""Boxes are compared where any class scores at least this: elsewhere they mean nothing."""


class BoxesScores(nn.Module):
    """A YOLO detector with its normalisation in front and its box decoding behind, for one input size.

    Args:
        network: an Ultralytics DetectionModel with a distribution-focal head (v8, 11, 12 and their kin); it is copied.
        width: input width in pixels, a multiple of the largest stride.
        height: input height likewise.
    """

    def __init__(self, network: nn.Module, width: int, height: int) -> None:
        super().__init__()
        network = copy.deepcopy(network).float().eval().fuse(verbose=False)
        layers = list(network.model)
        head = layers.pop()
        if getattr(head, 'end2end', False) or not hasattr(head, 'cv3') or head.reg_max < 2:
            raise ExportError(f'the head {type(head).__name__} has no box distribution; only such heads are exported')
        largest = int(max(head.stride))
        if width % largest or height % largest:
            raise ExportError(f'input {width}x{height} must be a multiple of the largest stride, {largest}')
        fold_normalisation(layers[0].conv)
        self.layers = nn.ModuleList(layers)
        self.box_branches, self.score_branches = head.cv2, head.cv3
        self.sources = list(head.f)
        self.bins = int(head.reg_max)
        strides = [int(stride) for stride in head.stride]
        self.cell_counts = [(width // stride) * (height // stride) for stride in strides]
        centres, steps = anchors(width, height, strides)
        self.register_buffer('distances', torch.arange(self.bins, dtype=torch.float32).reshape(1, 1, self.bins, 1))
        self.register_buffer('centres', centres)
        self.register_buffer('steps', steps)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Image uint8 (1, H, W, 3) BGR → boxes (1, N, 4) in pixels, scores (1, N, C)."""
        maps = self._maps(image.float().permute(0, 3, 1, 2))
        box_maps = [self._cells(branch(maps[k]), k) for k, branch in enumerate(self.box_branches)]
        score_maps = [self._cells(branch(maps[k]), k) for k, branch in enumerate(self.score_branches)]
        distribution = torch.cat(box_maps, 2).reshape(1, 4, self.bins, sum(self.cell_counts)).softmax(2)
        near, far = (distribution * self.distances).sum(2).split(2, dim=1)
        boxes = torch.cat([self.centres - near, self.centres + far], 1) * self.steps
        return boxes.transpose(1, 2), torch.cat(score_maps, 2).sigmoid().transpose(1, 2)

    def _cells(self, values: torch.Tensor, level: int) -> torch.Tensor:
        """(1, C, H, W) → (1, C, H·W), with sizes written into the graph as constants."""
        return values.reshape(1, -1, self.cell_counts[level])

    def _maps(self, value: Any) -> list[torch.Tensor]:
        """The feature maps that the head reads. `f` of a layer names where its input comes from, -1 is the layer before."""
        outputs: list[torch.Tensor] = []
        for layer in self.layers:
            if layer.f != -1:
                value = outputs[layer.f] if isinstance(layer.f, int) else [outputs[k] for k in layer.f]
            value = layer(value)
            outputs.append(value)
        return [outputs[k] for k in self.sources]


def fold_normalisation(convolution: nn.Conv2d) -> None:
    """Make a convolution that expects RGB in 0 … 1 take BGR in 0 … 255. Zero padding stays right, as black is 0 in both."""
    with torch.no_grad():
        convolution.weight.copy_(convolution.weight.flip(1) / 255)


def anchors(width: int, height: int, strides: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Cell centres (1, 2, N), x then y in cells, and the pixels per cell (1, 1, N), level by level, row by row."""
    centres, steps = [], []
    for stride in strides:
        rows, columns = height // stride, width // stride
        y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing='ij')
        centres.append(torch.stack([x.flatten(), y.flatten()]))
        steps.append(torch.full((1, rows * columns), float(stride)))
    return torch.cat(centres, 1)[None], torch.cat(steps, 1)[None]


def export(network: nn.Module, width: int, height: int, target: Path) -> BoxesScores:
    """Write `target`.

    Returns:
        The module that was exported, for `check_parity`.

    Raises:
        ExportError: the head or the size cannot be exported.
    """
    module = BoxesScores(network, width, height).eval()
    image = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    target.parent.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        torch.onnx.export(
            module,
            (image,),
            str(target),
            dynamo=False,
            opset_version=OPSET,
            input_names=['image'],
            output_names=['boxes', 'scores'],
        )
    graph = onnxslim.slim(onnx.load(target))
    graph.ir_version = min(graph.ir_version, 8)
    onnx.checker.check_model(graph)
    onnx.save(graph, target)
    return module


def check_parity(module: BoxesScores, onnx_file: Path, images: Iterable[npt.NDArray[np.uint8]]) -> dict[str, float]:
    """Compare torch and ONNX Runtime on letterboxed images.

    Args:
        images: uint8 (H, W, 3), BGR, of the network's input size.

    Returns:
        `score`: the largest difference of a score; `box_px`: of a box corner where a class scores at least 0.05.

    Raises:
        ExportError: no image, or a difference over the tolerance.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(onnx_file), providers=['CPUExecutionProvider'])
    worst = {'score': 0.0, 'box_px': 0.0}
    count = 0
    for image in images:
        boxes, scores = session.run(['boxes', 'scores'], {'image': image[None]})
        with torch.no_grad():
            wanted_boxes, wanted_scores = (value.numpy() for value in module(torch.from_numpy(image[None])))
        asked = wanted_scores.max(axis=2) >= ASKED_SCORE
        worst['score'] = max(worst['score'], float(np.abs(scores - wanted_scores).max()))
        worst['box_px'] = max(worst['box_px'], float(np.abs(boxes - wanted_boxes)[asked].max(initial=0)))
        count += 1
    if not count:
        raise ExportError('parity needs at least one image')
    if worst['score'] > SCORE_TOLERANCE or worst['box_px'] > BOX_TOLERANCE_PX:
        raise ExportError(
            f'{onnx_file} differs from torch by {worst["score"]:.2g} in score and {worst["box_px"]:.2g} px'
        )
    return worst
