"""Vehicles cut out of photographs and pasted into others: what photographs hardly show is so seen in many places.

No photograph has masks, so only vehicles are taken that stand along an axis of the picture: their box is then nearly their
outline. A pasted one may be turned by any angle, and keeps the size that it has beside cars.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from training.data.dataset import Image, LabeledImage

LEAST_ASPECT = (2.0, 2.1, 2.9, 2.1, 2.0)
"""Of a box whose vehicle stands along an axis, by class id of aerial_traffic; a bus is longer than a car."""
CORNER = 0.15
"""What is cut off an outline's corners, in widths: vehicles are rounded."""
SOFT_EDGE = 1.0
"""Pixels by which a painted edge reaches beyond its outline."""
MOST_ENLARGED = 1.5
LEAST_PIECE = 110
"""Of an empty piece of ground, pixels along each side."""
PLACES = 8
"""Places that are tried for one vehicle; it goes where the ground is the most even."""


@dataclass(frozen=True)
class Cutout:
    """A vehicle along the x axis.

    Attributes:
        image: BGR, what its box held.
        class_id: of aerial_traffic.
        car_length: of cars in its photograph, pixels.
    """

    image: Image
    class_id: int
    car_length: float


def cutouts(photographs: Sequence[LabeledImage], car_length: float) -> list[Cutout]:
    """The vehicles of a session that can be cut out: along an axis, whole, not touched by another's box."""
    found = []
    for item in photographs:
        height, width = item.image.shape[:2]
        for place, (box, class_id) in enumerate(zip(item.objects.boxes, item.objects.class_ids, strict=True)):
            x1, y1, x2, y2 = (int(value) for value in box.round())
            sides = sorted((x2 - x1, y2 - y1))
            inside = x1 > 1 and y1 > 1 and x2 < width - 1 and y2 < height - 1
            if not inside or sides[0] < 4 or sides[1] < LEAST_ASPECT[class_id] * sides[0]:
                continue
            if _overlaps(box, np.delete(item.objects.boxes, place, axis=0)):
                continue
            image = item.image[y1:y2, x1:x2]
            image = image if x2 - x1 > y2 - y1 else np.ascontiguousarray(np.rot90(image))
            found.append(Cutout(image, int(class_id), car_length))
    return found


def paste(
    image: Image,
    boxes: npt.NDArray[np.float32],
    cutout: Cutout,
    car_length: float,
    shadow: tuple[float, float],
    rng: np.random.Generator,
) -> npt.NDArray[np.float32] | None:
    """Paste a vehicle where nothing stands.

    Args:
        image: changed in place.
        boxes: (N, 4) of what stands there.
        car_length: of cars in the image, pixels.
        shadow: where it throws its shadow, in car lengths; (0, 0) for none.

    Returns:
        Its box, or None where there is no room or it would be enlarged too much.
    """
    scale = car_length / cutout.car_length * rng.uniform(0.92, 1.08)
    length, width = (max(side * scale, 2.0) for side in cutout.image.shape[1::-1])
    if scale > MOST_ENLARGED or width < 3:
        return None
    turns = rng.integers(4) * np.pi / 2
    angle = float(turns + rng.choice([rng.normal(0, 0.05), rng.uniform(0, np.pi)], p=[0.4, 0.6]))
    outline = _outline(length, width) @ np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    low, high = outline.min(axis=0), outline.max(axis=0)
    center = _free_place(image, boxes, low - SOFT_EDGE, high + SOFT_EDGE, rng)
    if center is None:
        return None
    small = cv2.resize(cutout.image, (max(round(length), 1), max(round(width), 1)), interpolation=cv2.INTER_AREA)
    small = small[:: int(rng.choice([-1, 1]))] * rng.uniform(0.85, 1.15)
    if any(shadow):
        _darken(image, outline + center + np.array(shadow) * car_length)
    _paint(image, small.clip(0, 255).astype(np.uint8), outline, center, angle)
    return np.concatenate([low + center, high + center]).astype(np.float32) + np.float32(0.5)


def empty_piece(
    picture: LabeledImage, upper: float, most: tuple[float, float], rng: np.random.Generator
) -> Image | None:
    """A piece of a picture in which no labelled object stands, or None where a few tries find none.

    Args:
        upper: share of the picture from its upper edge on that is left out.
        most: its largest width and height, pixels.
    """
    height, width = picture.image.shape[:2]
    border = width // 20
    low, high = np.array([border, max(border, upper * height)]), np.array([width - border, height - border])
    largest = np.minimum(high - low, most)
    if (largest < LEAST_PIECE).any():
        return None
    for _ in range(PLACES):
        sides = rng.uniform(LEAST_PIECE, largest)
        corner = rng.uniform(low, high - sides)
        box = np.concatenate([corner, corner + sides])
        if not _overlaps(box, picture.objects.boxes):
            x1, y1, x2, y2 = box.astype(int)
            return picture.image[y1:y2, x1:x2]
    return None


def _outline(length: float, width: float) -> npt.NDArray[np.float64]:
    """A rectangle without its corners around the origin."""
    cut, x, y = CORNER * width, length / 2, width / 2
    quarter = np.array([(x, y - cut), (x - cut, y)])
    corners = [quarter, (quarter * (-1, 1))[::-1], quarter * (-1, -1), (quarter * (1, -1))[::-1]]
    return np.concatenate(corners)


def _darken(image: Image, outline: npt.NDArray[np.float64]) -> None:
    x, y, part = _window(image, outline)
    cover = _cover(part.shape, outline - (x, y)) * 0.45
    part[:] = (part * (1 - cover)).astype(np.uint8)


def _paint(
    image: Image,
    vehicle: Image,
    outline: npt.NDArray[np.float64],
    center: npt.NDArray[np.float64],
    angle: float,
) -> None:
    """Blend a vehicle in that lies along the x axis: turned by `angle`, its middle at `center`, inside the outline."""
    x, y, part = _window(image, outline + center)
    turn = np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    middle = (np.array([vehicle.shape[1], vehicle.shape[0]]) - 1) / 2
    matrix = np.concatenate([turn, (center - (x, y) - turn @ middle)[:, None]], axis=1)
    turned = cv2.warpAffine(vehicle, matrix, part.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    cover = _cover(part.shape, outline + center - (x, y))
    part[:] = (part * (1 - cover) + turned * cover).round().astype(np.uint8)


def _window(image: Image, outline: npt.NDArray[np.float64]) -> tuple[int, int, Image]:
    """Left and top edge of the part of an image around an outline, and that part."""
    height, width = image.shape[:2]
    x, y = np.clip(outline.min(axis=0).astype(int) - 3, 0, (width - 1, height - 1)).tolist()
    right, bottom = np.clip(outline.max(axis=0).astype(int) + 4, (x + 1, y + 1), (width, height)).tolist()
    return x, y, image[y:bottom, x:right]


def _cover(shape: Sequence[int], outline: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """How much of each pixel an outline covers, 0 … 1 of shape (height, width, 1), with soft edges."""
    mask = np.zeros(shape[:2], np.uint8)
    cv2.fillConvexPoly(mask, np.round(outline * 16).astype(np.int32), 255, cv2.LINE_AA, 4)
    return np.asarray(cv2.GaussianBlur(mask, (3, 3), 0.6), np.float32)[..., None] / 255


def _free_place(
    image: Image,
    boxes: npt.NDArray[np.float32],
    low: npt.NDArray[np.float64],
    high: npt.NDArray[np.float64],
    rng: np.random.Generator,
) -> npt.NDArray[np.float64] | None:
    """Where the most even ground of the places that were tried is, wholly inside and free."""
    room = np.array(image.shape[1::-1]) - (high - low) - 4
    if (room < 1).any():
        return None
    best, roughness = None, np.inf
    for _ in range(PLACES):
        corner = rng.uniform(2, room + 2)
        box = np.concatenate([corner, corner + high - low])
        x1, y1, x2, y2 = box.round().astype(int)
        rough = float(image[y1 : y2 + 1, x1 : x2 + 1].std())
        if rough < roughness and not _overlaps(box, boxes):
            best, roughness = corner - low, rough
    return best


def _overlaps(box: npt.NDArray[np.floating], others: npt.NDArray[np.floating]) -> bool:
    if not len(others):
        return False
    inside = (others[:, :2] < box[2:]) & (others[:, 2:] > box[:2])
    return bool(inside.all(axis=1).any())
