"""Pictures that an export turned and sheared, set upright again: their boxes had become loose, and a network learns that.

Some exports hold augmented copies alone: the picture turned and sheared about its center, the corners filled with one plain
color, and each box replaced by the upright box around the turned one, which for a narrow object is up to twice as wide. The
straight edges between picture and filling say what was done, and it is undone: of picture and boxes both.

With the picture's half sides (a, b) the edges are the lines A·(±a, t) and A·(s, ±b) of a linear map A, whose columns follow from
the edges' directions and their distances from the center. A box of sides (w, h) became one of |A|·(w, h), element by element.
Where the export turned first, sheared then, and widened the box at both, a part of that stays: edges do not tell the two apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from training.data.picture import Image, Picture, Source

Floats = npt.NDArray[np.float64]

TOLERANCE = 14
"""Levels by which JPEG lets the filling vary."""
STEEPEST = np.radians(35)
"""Beyond it a turn is not told from a turn of the other axis."""
LEAST_EDGE = 0.08
"""Length of all visible edges of an axis, as a share of the picture's longer side, from which their direction is trusted."""
LEAST_TURN = np.radians(1.0)
LEAST_SHARE = 0.5
NARROWEST = 0.35
"""A side does not shrink below this share: a box that was cut at the border gives no better answer."""
PAD = 114


@dataclass(frozen=True)
class Turn:
    """What was done to a picture about its center.

    Attributes:
        matrix: (2, 2), from offsets in the upright picture to offsets in the turned one.
    """

    matrix: Floats

    def upright_box(self, box: Sequence[float], width: int, height: int) -> tuple[float, float, float, float]:
        """The box in the upright picture of a box x1 y1 x2 y2 around its turned self; both clipped to the picture by others."""
        center = np.array([width, height]) / 2
        x1, y1, x2, y2 = box
        around = np.array([x2 - x1, y2 - y1])
        middle = np.linalg.solve(self.matrix, np.array([x1 + x2, y1 + y2]) / 2 - center) + center
        sides = np.clip(np.linalg.solve(np.abs(self.matrix), around), NARROWEST * around, around)
        left, top = middle - sides / 2
        right, bottom = middle + sides / 2
        return float(left), float(top), float(right), float(bottom)

    def upright_picture(self, image: Image) -> Image:
        """The picture set upright; what the turn had cut off is gray."""
        height, width = image.shape[:2]
        center = np.array([width, height]) / 2 - 0.5
        back = np.concatenate([self.matrix, (center - self.matrix @ center)[:, None]], 1)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        upright = cv2.warpAffine(image, back, (width, height), flags=flags, borderValue=(PAD, PAD, PAD))
        return np.asarray(upright, np.uint8)


def turn_of(image: Image) -> Turn | None:
    """How a picture was turned and sheared, None where its border does not say so.

    Args:
        image: uint8 (H, W, 3).
    """
    height, width = image.shape[:2]
    hull = _picture_within(image)
    if hull is None:
        return None
    half = np.array([width, height]) / 2
    lying, standing = _edges(hull - half + 0.5, half)
    if lying is None or standing is None:
        return None
    (across, far_down), (down, far_across) = lying, standing
    sine = abs(across[0] * down[1] - across[1] * down[0])
    # The edge that stands at the distance d from the center is reached by d / sine along the other axis.
    matrix = np.stack([across * far_across / sine / half[0], down * far_down / sine / half[1]], 1)
    turned = np.arctan2(across[1], across[0]), np.arctan2(down[0], down[1])
    return Turn(matrix) if np.abs(turned).max() >= LEAST_TURN and _plausible(matrix) else None


def _plausible(matrix: Floats) -> bool:
    lengths = np.linalg.norm(matrix, axis=0)
    return bool(((lengths > 0.8) & (lengths < 1.3)).all() and np.linalg.cond(np.abs(matrix)) < 4)


def _picture_within(image: Image) -> Floats | None:
    """The corners (K, 2) of the picture between its filled corners, None where nothing is filled."""
    height, width = image.shape[:2]
    filled = np.zeros((height + 2, width + 2), np.uint8)
    flags = 4 | cv2.FLOODFILL_FIXED_RANGE | cv2.FLOODFILL_MASK_ONLY | (1 << 8)
    corners = [(0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1)]
    colors = np.array([image[y, x] for x, y in corners], np.int64)
    plain = colors.max(1) - colors.min(1) <= TOLERANCE
    if plain.sum() < 2:
        return None
    usual = np.median(colors[plain], axis=0)
    image = image.copy()  # OpenCV asks for an image that it may write to, and writes to the mask alone
    for corner, color, gray in zip(corners, colors, plain, strict=True):
        if gray and np.abs(color - usual).max() <= TOLERANCE:
            cv2.floodFill(image, filled, corner, (0, 0, 0), (TOLERANCE,) * 3, (TOLERANCE,) * 3, flags)
    inside = np.ascontiguousarray(1 - filled[1:-1, 1:-1])
    if inside.all():
        return None
    inside = cv2.morphologyEx(inside, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    contours, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return None
    largest = max(contours, key=cv2.contourArea)
    if cv2.contourArea(largest) < 0.5 * width * height:
        return None
    hull = cv2.approxPolyDP(cv2.convexHull(largest), 1.5, True)
    return np.asarray(hull, np.float64).reshape(-1, 2)


Edge = tuple[Floats, float]
"""Direction (2) of an axis' edges and their mean distance from the center."""


def _edges(hull: Floats, half: Floats) -> tuple[Edge | None, Edge | None]:
    """The lying and the standing edges of a hull (K, 2) about the center, without those along the border of the image."""
    starts, ends = hull, np.roll(hull, -1, axis=0)
    found: tuple[list[tuple[Floats, float]], list[tuple[Floats, float]]] = ([], [])
    for start, end in zip(starts, ends, strict=True):
        side = end - start
        length = float(np.linalg.norm(side))
        on_border = (
            (np.abs(np.abs(start) - half) < 2.5) & (np.abs(np.abs(end) - half) < 2.5) & (np.sign(start) == np.sign(end))
        )
        if length < 12 or on_border.any():
            continue
        direction = side / length
        distance = abs(float(direction[0] * start[1] - direction[1] * start[0]))
        axis = int(np.argmax(np.abs(direction)))
        direction = direction * np.sign(direction[axis])
        if np.arccos(min(abs(float(direction[axis])), 1.0)) <= STEEPEST:
            found[axis].append((np.array([*direction * length, length]), distance))
    least = LEAST_EDGE * 2 * float(half.max())
    return _mean_edge(found[0], least), _mean_edge(found[1], least)


def _mean_edge(edges: Sequence[tuple[Floats, float]], least: float) -> Edge | None:
    lengths = np.array([edge[2] for edge, _ in edges])
    if lengths.sum() < least:
        return None
    direction = np.sum([edge[:2] for edge, _ in edges], axis=0)
    distance = float(np.average([distance for _, distance in edges], weights=lengths))
    return direction / np.linalg.norm(direction), distance


def straightened(source: Source) -> Source:
    """A set whose train split is set upright where its border says how it was turned; what judges stays as it is.

    A dark or bright part of a scene that reaches the corners can look like filling. So nothing is done to a set in which less
    than `LEAST_SHARE` of the pictures look turned: an export turns nearly all.
    """
    turns = {entry.name: turn_of(entry.read()) for entry in source.pictures if entry.split == 'train'}
    turned = {name: turn for name, turn in turns.items() if turn is not None}
    if len(turned) < LEAST_SHARE * len(turns):
        return source
    return replace(
        source,
        pictures=tuple(
            _upright(entry, turned[entry.name]) if entry.split == 'train' and entry.name in turned else entry
            for entry in source.pictures
        ),
    )


def _upright(picture: Picture, turn: Turn) -> Picture:
    height, width = picture.read().shape[:2]
    objects = tuple(
        replace(entry, box=turn.upright_box(entry.box, width, height)) for entry in picture.objects_in(width, height)
    )
    return replace(
        picture, read=_reader(picture.read, turn), objects=objects, relative=(), size=(width, height), file=None
    )


def _reader(read: Callable[[], Image], turn: Turn) -> Callable[[], Image]:
    return lambda: turn.upright_picture(read())
