"""Makes a CUDA build of torchvision importable beside a CPU build of torch, by supplying the operators that it misses.

Call `ensure()` before the first import of torchvision or ultralytics. Where torchvision fits torch it does nothing.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch

_library: Any = None  # the registration lives as long as this object


def ensure() -> None:
    """Register `torchvision::nms` for the CPU if torch is a CPU build and torchvision did not bring the operator."""
    global _library
    if _library is not None or torch.version.cuda is not None or _torchvision_is_whole():
        return
    _library = torch.library.Library('torchvision', 'FRAGMENT')
    for name in ('nms', 'qnms'):
        _library.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    _library.impl('nms', nms, 'CPU')
    import torchvision.extension

    torchvision.extension._has_ops = lambda: True


def _torchvision_is_whole() -> bool:
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        return False
    return True


def nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Indices of the boxes that survive, by falling score: what `torchvision.ops.nms` returns.

    Args:
        boxes: (N, 4) x1, y1, x2, y2.
        scores: (N,).
    """
    corners = boxes.detach().float().numpy()
    rectangles = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    ranks = scores.detach().float()
    ranks = ranks - ranks.min() + 1 if len(ranks) else ranks  # OpenCV drops scores of 0 and less
    kept = cv2.dnn.NMSBoxes(rectangles.tolist(), ranks.tolist(), 0.0, iou_threshold)
    return torch.as_tensor(np.asarray(kept, np.int64).reshape(-1))
