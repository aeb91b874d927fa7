"""Seams: the boxes that were found in overlapping tiles of one frame, made into one box for each object.

An object at the border of a tile is seen there in part. Where another tile shows it whole, the part goes; where no tile does, for
it is larger than the overlap, its parts are joined; and what several tiles show whole is one object by NMS, as ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kd_perception.detection.detections import Detections, FloatArray, IntArray
from kd_perception.detection.nms import nms
from kd_perception.detection.thresholds import Thresholds
from kd_perception.detection.tiles import Plan

COVERED = 0.7
"""Share of a part's area that a fuller box must cover for both to be one object."""
ALIGNED = 0.5
"""Share of the shorter side along a seam that two parts must have in common for both to be one object."""
LIKE_SCORES = 0.5
"""A box speaks for another's object only if its score is at least this share of the other's: noise must not swallow a car."""
LONG_ENOUGH_PX = 16.0
"""Boxes of the whole frame shorter than this, in pixels of the network's input, are left to the tiles, which show them larger:
two cells of stride 8 hardly tell a small object from none, or where exactly it ends."""
BORDER_PX = 3.0
"""A box touches a border from so many pixels of the network's input on; boxes are not exact to the pixel."""

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Parts:
    """Boxes of all tiles in pixels of the frame.

    Attributes:
        boxes: float32 (N, 4).
        scores: float32 (N,).
        class_ids: int32 (N,).
        tiles: float32 (N, 4), the tile that each was found in; for what was joined, the tiles' hull.
        origin: int32 (N,), equal for the boxes of one tile.
        cut: bool (N, 4), whether left, top, right, bottom lie at a border of the tile inside the frame.
    """

    boxes: FloatArray
    scores: FloatArray
    class_ids: IntArray
    tiles: FloatArray
    origin: IntArray
    cut: BoolArray

    @property
    def is_part(self) -> BoolArray:
        """bool (N,): whether a box is cut at all."""
        parts: BoolArray = np.any(self.cut, axis=1)
        return parts

    def select(self, which: BoolArray) -> _Parts:
        return _Parts(*(getattr(self, name)[which] for name in self.__dataclass_fields__))

    def detections(self) -> Detections:
        return Detections(self.boxes, self.scores, self.class_ids)


def merge(found: Sequence[Detections], plan: Plan, thresholds: Thresholds, max_detections: int) -> Detections:
    """One box for each object.

    Args:
        found: what was found in each of the plan's passes, in the pass's pixels.
        plan: where they lie.
        thresholds: IoU of the NMS, and whether boxes of different classes may be one object.
        max_detections: at most so many come back.

    Returns:
        In pixels of the frame, by falling score. A tile's box that no other one overlaps is returned as it is.
    """
    if plan.has_whole:
        found = [*found[:-1], _large(found[-1], LONG_ENOUGH_PX / plan.whole_scale)]
    slack = BORDER_PX / plan.scale
    agnostic = thresholds.is_class_agnostic
    parts = _parts(found, plan, slack)
    if len(parts.scores) == 0:
        return Detections.empty()
    parts = _join(parts, plan, slack, agnostic)
    parts = parts.select(~_covered(parts, agnostic))
    return nms(parts.detections(), thresholds.iou, max_detections, agnostic)


def _large(found: Detections, least: float) -> Detections:
    """Boxes whose longer side has at least so many pixels."""
    return found.select(np.max(found.boxes[:, 2:] - found.boxes[:, :2], axis=1, initial=0) >= least)


def _parts(found: Sequence[Detections], plan: Plan, slack: float) -> _Parts:
    places = np.array([(tile.left, tile.top, tile.right, tile.bottom) for tile in plan.passes], np.float32)
    origin = np.repeat(np.arange(len(places), dtype=np.int32), [len(one) for one in found])
    tile = places[origin]
    boxes = np.concatenate([one.boxes for one in found]) + np.tile(tile[:, :2], 2)
    near = np.abs(boxes - tile) <= slack
    inner = tile != np.array([0, 0, *plan.frame], np.float32)
    scores = np.concatenate([one.scores for one in found])
    class_ids = np.concatenate([one.class_ids for one in found])
    return _Parts(boxes, scores, class_ids, tile, origin, near & inner)


def _join(parts: _Parts, plan: Plan, slack: float, agnostic: bool) -> _Parts:
    """Put together what faces each other over a seam and fills the overlap of both tiles."""
    lefts = np.unique(np.array([tile.left for tile in plan.passes], np.float32))
    tops = np.unique(np.array([tile.top for tile in plan.passes], np.float32))
    at_seam = np.flatnonzero(parts.is_part)
    pieces = parts.select(parts.is_part)
    facing = _facing(pieces, 0, lefts, slack) | _facing(pieces, 1, tops, slack)
    pairs = np.argwhere(facing & _same_class(pieces.class_ids, pieces.class_ids, agnostic))
    if len(pairs) == 0:
        return parts
    label = np.arange(len(at_seam))
    for one, other in pairs:
        label[label == label[other]] = label[one]
    groups = [np.flatnonzero(label == name) for name in np.unique(label[pairs])]
    joined = [_union(pieces, group, -1 - n, slack) for n, group in enumerate(groups)]
    alone = np.ones(len(parts.scores), bool)
    alone[at_seam[np.concatenate(groups)]] = False
    all_parts = [parts.select(alone), *joined]
    return _Parts(*(np.concatenate([getattr(p, name) for p in all_parts]) for name in _Parts.__dataclass_fields__))


def _facing(parts: _Parts, axis: int, starts: FloatArray, slack: float) -> BoolArray:
    """(N, N): whether the second box goes on, to the right (axis 0) or below (1), with what the first one's tile cut off.

    Only in the next tile, by `starts`, where tiles begin: of tiles that just touch, the one between knows what is one object.
    """
    low, high, along = axis, axis + 2, 1 - axis
    boxes, tiles = parts.boxes, parts.tiles
    begins, ends = tiles[None, :, low], tiles[:, None, high]  # of the overlap: second tile's begin, first tile's end
    place = np.searchsorted(starts, tiles[:, low])
    ahead = (place[None] - place[:, None] == 1) & (ends < tiles[None, :, high]) & (begins <= ends)
    first = parts.cut[:, None, high] & (boxes[:, None, low] <= begins + slack)
    second = parts.cut[None, :, low] & (boxes[None, :, high] >= ends - slack)
    common = np.minimum(boxes[:, None, along + 2], boxes[None, :, along + 2]) - np.maximum(
        boxes[:, None, along], boxes[None, :, along]
    )
    length = boxes[:, along + 2] - boxes[:, along]
    aligned = common >= ALIGNED * np.minimum(length[:, None], length[None, :])
    weaker = np.minimum(parts.scores[:, None], parts.scores[None, :])
    stronger = np.maximum(parts.scores[:, None], parts.scores[None, :])
    result: BoolArray = ahead & first & second & aligned & (weaker >= LIKE_SCORES * stronger)
    return result


def _union(parts: _Parts, group: npt.NDArray[np.intp], origin: int, slack: float) -> _Parts:
    """One box for the parts of a group, with the best of their scores and its class; cut where its outermost parts are."""
    boxes, tiles, cut = parts.boxes[group], parts.tiles[group], parts.cut[group]
    best = group[parts.scores[group].argmax()][None]
    box = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
    hull = np.concatenate([tiles[:, :2].min(axis=0), tiles[:, 2:].max(axis=0)])
    still_cut = (cut & (np.abs(boxes - box) <= slack) & (tiles == hull)).any(axis=0)
    return _Parts(
        box[None],
        parts.scores[best],
        parts.class_ids[best],
        hull[None],
        np.array([origin], np.int32),
        still_cut[None],
    )


def _covered(parts: _Parts, agnostic: bool) -> BoolArray:
    """(N,): whether a box is only a part of what a larger box of another tile shows."""
    boxes, area = parts.boxes, np.prod(parts.boxes[:, 2:] - parts.boxes[:, :2], axis=1)
    covered = np.zeros(len(area), bool)
    for origin in np.unique(parts.origin[parts.is_part]):
        mine = np.flatnonzero(parts.is_part & (parts.origin == origin))
        tile = parts.tiles[mine[0]]
        reaches = np.all(boxes[:, :2] < tile[2:], axis=1) & np.all(boxes[:, 2:] > tile[:2], axis=1)
        others = np.flatnonzero(reaches & (parts.origin != origin))
        part, other = boxes[mine, None], boxes[None, others]
        width = np.minimum(part[..., 2], other[..., 2]) - np.maximum(part[..., 0], other[..., 0])
        height = np.minimum(part[..., 3], other[..., 3]) - np.maximum(part[..., 1], other[..., 1])
        common = np.maximum(width, 0) * np.maximum(height, 0)
        same = _same_class(parts.class_ids[mine], parts.class_ids[others], agnostic)
        sure = parts.scores[others] >= LIKE_SCORES * parts.scores[mine, None]
        fuller = (area[others] > area[mine, None]) & (common >= COVERED * area[mine, None])
        covered[mine] = np.any(fuller & same & sure, axis=1)
    return covered


def _same_class(first: IntArray, second: IntArray, agnostic: bool) -> BoolArray:
    """(N, M): whether two boxes may be one object by their classes."""
    same: BoolArray = agnostic | (first[:, None] == second[None, :])
    return same
