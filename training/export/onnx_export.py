"""Export of any detector as ONNX in the `boxes_scores` layout, and the proof that it computes what torch computes.

The graph takes a letterboxed uint8 image (1, H, W, 3), BGR, and returns `boxes` (1, N, 4), x1 y1 x2 y2 in input pixels, and
`scores` (1, N, C) in 0 … 1. Which networks there are: `training.export.heads`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxslim  # type: ignore[import-untyped]
import torch
from torch import nn

from training.errors import ExportError
from training.export.heads import BoxesScores, QueryHead, boxes_scores

FloatArray = npt.NDArray[np.float32]

OPSET = 17
"""ONNX Runtime 1.16, the oldest that our robots have, reads up to 19; TensorRT 8.6 reads 17."""

SCORE_TOLERANCE = 1e-3
BOX_TOLERANCE_PX = 0.05
ASKED_SCORE = 0.05
"""Boxes are compared where any class scores at least this: elsewhere they mean nothing."""


def export(network: nn.Module, width: int, height: int, target: Path) -> BoxesScores:
    """Write `target`.

    Returns:
        The module that was exported, for `check_parity`.

    Raises:
        ExportError: the head or the size cannot be exported.
    """
    module = boxes_scores(network, width, height)
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
    """Compare every number of torch and ONNX Runtime on letterboxed images; for detections, see `training.export.parity`.

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
        if isinstance(module.head, QueryHead):
            boxes, scores = _in_order_of(wanted_boxes, wanted_scores, boxes, scores)
        asked = wanted_scores.max(axis=2) >= ASKED_SCORE
        worst['score'] = max(worst['score'], float(np.abs(scores - wanted_scores).max()))
        worst['box_px'] = max(worst['box_px'], float(np.abs(boxes - wanted_boxes)[asked].max(initial=0)))
        count += 1
    if not count:
        raise ExportError('parity needs at least one image')
    if not (worst['score'] <= SCORE_TOLERANCE and worst['box_px'] <= BOX_TOLERANCE_PX):  # NaN is over it too
        raise ExportError(
            f'{onnx_file} differs from torch by {worst["score"]:.2g} in score and {worst["box_px"]:.2g} px'
        )
    return worst


def _in_order_of(
    wanted_boxes: FloatArray, wanted_scores: FloatArray, boxes: FloatArray, scores: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Queries come by falling score of the encoder, and rounding may swap neighbours: each wanted one gets its most similar."""
    distance = np.abs(wanted_boxes[0][:, None] - boxes[0][None]).max(axis=2)
    distance += np.abs(wanted_scores[0][:, None] - scores[0][None]).max(axis=2)
    order = distance.argmin(axis=1)
    return boxes[:, order], scores[:, order]
