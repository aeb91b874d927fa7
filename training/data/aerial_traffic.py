"""The aerial_traffic photographs → training tiles in which vehicles have the sizes that the robot's camera shows.

The photographs show cars of one size per session (24 or 56 px long) in frames of 1764 × 430 or 1920 × 1080. On the robot
the whole frame is fitted into the network's input, and flights are higher or lower, so tiles are cut at a random scale:
the length of a car in the tile is drawn, and the tile's footprint in the photograph follows from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from kd_perception.detection.detections import Detections
from training.data.class_rules import ClassRules, class_rules, reclassed
from training.data.dataset import Image, LabeledImage, ground_truth, read_split, write_split
from training.data.pasting import Cutout, cutouts, empty_piece, paste
from training.errors import DataError
from training.ranges import SHARE, Range
from training.schema import added

CLASSES = ('car', 'truck', 'bus', 'minibus', 'cyclist')
CAR = CLASSES.index('car')
PAD = 114
MIN_STRIP = 96
"""A free strip of a tile that is narrower than this, in pixels, stays grey."""


@dataclass(frozen=True)
class TileSettings:
    """How tiles are cut.

    Attributes:
        size: side of a tile in pixels.
        count: tiles for training.
        car_px: shortest and longest car in a tile, in pixels; lengths are drawn log-uniformly.
        max_zoom: photographs are never enlarged by more than this.
        border: strip along the photograph's border that is left out, in car lengths: cut vehicles there are unlabelled.
        min_visible: a vehicle cut by the tile's border stays an object if this share of its box is inside.
        empty_share: share of tiles drawn anywhere, the others hold at least one vehicle.
        grey_share: share of tiles in which what one photograph leaves free stays grey, as the letterbox leaves it.
        blur_share: share of tiles that are blurred slightly, as frames in flight are.
        seed: of all that is drawn.
        paste_share: share of the crops into which vehicles of other photographs are pasted; first a class is drawn, so that
            buses are as many as cars. See `training.data.pasting`.
        paste_most: vehicles pasted into one crop at most.
        spoil_share: share of tiles with a cheap camera's noise and compression.
        grounds: another data set in our form, relative to the data root, of whose pictures empty pieces serve as ground beside
            the photographs: other roads, on which nothing but pasted vehicles stands.
        ground_share: share of the crops that are such pieces.
        ground_from: upper share of those pictures that is left out, where the far ones may lack labels.
    """

    size: int = 480
    count: int = 1200
    car_px: tuple[float, float] = (11.0, 60.0)
    max_zoom: float = 1.4
    border: float = 0.8
    min_visible: float = 0.5
    empty_share: float = 0.1
    grey_share: float = 0.15
    blur_share: float = 0.3
    seed: int = 0
    paste_share: float = added(0.0)
    paste_most: int = added(3)
    spoil_share: float = added(0.0)
    grounds: str = added('')
    ground_share: float = added(0.0)
    ground_from: float = added(0.5)

    def __post_init__(self) -> None:
        SHARE.check(paste_share=self.paste_share, spoil_share=self.spoil_share, ground_share=self.ground_share)
        Range(least=0, most=0.9).check(ground_from=self.ground_from)
        if bool(self.grounds) != bool(self.ground_share):
            raise ValueError('grounds and ground_share belong together')
        Range(least=1, most=100).check(paste_most=self.paste_most)


def session(name: str) -> str:
    """The flight of a photograph: its name without the running number. Neighbours in a flight are near duplicates."""
    return re.sub(r'[-_]?\d+$', '', name)


def prepare(
    source: Path,
    target: Path,
    settings: TileSettings,
    rules: ClassRules | None = None,
    data_root: Path = Path(),
) -> dict[str, int]:
    """Cut training tiles and copy the validation photographs unchanged.

    Args:
        rules: what becomes of the classes; None keeps them.
        data_root: where the set of the grounds lies.

    Returns:
        Number of images per split.

    Raises:
        DataError: `source` is not the data set, its classes differ, or a session lies in both splits.
    """
    check_classes(source)
    train = list(read_split(source, 'train'))
    validation = list(read_split(source, 'val'))
    shared = {session(item.name) for item in train} & {session(item.name) for item in validation}
    if shared:
        raise DataError(f'sessions {", ".join(sorted(shared))} lie in train and in val; the metrics would be worthless')
    rules = rules or class_rules(CLASSES)
    grounds = list(read_split(data_root / settings.grounds, 'train')) if settings.grounds else []
    drawn, kept = reclassed(tiles(train, settings, grounds), CLASSES, rules), reclassed(validation, CLASSES, rules)
    return {
        'train': write_split(target, 'train', rules.classes, drawn),
        'val': write_split(target, 'val', rules.classes, kept, jpeg_quality=98),
    }


def check_classes(source: Path) -> None:
    """Raise DataError unless `source` lists the classes that we train, in our order."""
    file = source / 'classes.txt'
    if not file.is_file():
        raise DataError(f'{file} is missing; give the folder of the aerial_traffic data set')
    found = tuple(file.read_text(encoding='utf-8').split())
    if found != CLASSES:
        raise DataError(f'{file} lists {" ".join(found)}, not {" ".join(CLASSES)}')


def tiles(
    photographs: list[LabeledImage], settings: TileSettings, grounds: Sequence[LabeledImage] = ()
) -> Iterator[LabeledImage]:
    """Draw tiles: every session is equally likely, then every photograph in it."""
    rng = np.random.default_rng(settings.seed)
    sessions: dict[str, list[LabeledImage]] = {}
    for photograph in photographs:
        sessions.setdefault(session(photograph.name), []).append(photograph)
    lengths = {name: _car_length(members) for name, members in sessions.items()}
    pasted: dict[int, list[Cutout]] = {}
    if settings.paste_share:
        for cutout in [cutout for name, members in sessions.items() for cutout in cutouts(members, lengths[name])]:
            pasted.setdefault(cutout.class_id, []).append(cutout)
    cutter = _Cutter(sessions, lengths, settings, rng, pasted, grounds)
    for index in range(settings.count):
        yield LabeledImage(f'{index:05d}', *cutter.tile())


def _car_length(photographs: list[LabeledImage]) -> float:
    boxes = np.concatenate([item.objects.boxes[item.objects.class_ids == CAR] for item in photographs])
    if not len(boxes):
        raise DataError(f'session {session(photographs[0].name)} shows no car; its scale cannot be found')
    return float(np.median((boxes[:, 2:] - boxes[:, :2]).max(axis=1)))


@dataclass(frozen=True)
class _Cutter:
    """Cuts tiles at random places and scales out of photographs."""

    sessions: dict[str, list[LabeledImage]]
    car_lengths: dict[str, float]
    settings: TileSettings
    rng: np.random.Generator
    cutouts: dict[int, list[Cutout]]
    grounds: Sequence[LabeledImage]

    def tile(self) -> tuple[Image, Detections]:
        """One tile, turned by a random multiple of 90°. What a small photograph leaves free is mostly filled from others."""
        size, rng = self.settings.size, self.rng
        image = np.full((size, size, 3), PAD, np.uint8)
        placed: list[Detections] = []
        filled = rng.random() >= self.settings.grey_share
        regions = [(0, 0, size, size)]
        while regions:
            x, y, width, height = regions.pop()
            crop = self._ground(width, height) or self._crop(width, height)
            used_height, used_width = crop.image.shape[:2]
            image[y : y + used_height, x : x + used_width] = crop.image
            placed.append(replace(crop.objects, boxes=crop.objects.boxes + np.array([x, y, x, y], np.float32)))
            free = [
                (x + used_width, y, width - used_width, used_height),
                (x, y + used_height, width, height - used_height),
            ]
            regions += [region for region in free if filled and min(region[2:]) >= MIN_STRIP]
        if rng.random() < self.settings.blur_share:
            image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.1)), np.uint8)
        if self.settings.spoil_share and rng.random() < self.settings.spoil_share:
            image = _spoiled(image, rng)
        quarter_turns = int(rng.integers(4))
        boxes = turn(np.concatenate([objects.boxes for objects in placed]), size, quarter_turns)
        class_ids = np.concatenate([objects.class_ids for objects in placed])
        return np.ascontiguousarray(np.rot90(image, quarter_turns)), ground_truth(boxes, class_ids)

    def _crop(self, width: int, height: int) -> LabeledImage:
        """A piece of a random photograph at a random scale, at most `width` × `height` pixels."""
        settings, rng = self.settings, self.rng
        name = str(rng.choice(sorted(self.sessions)))
        photograph = self.sessions[name][rng.integers(len(self.sessions[name]))]
        car_length = self.car_lengths[name]
        zoom = min(np.exp(rng.uniform(*np.log(settings.car_px))) / car_length, settings.max_zoom)
        margin = round(settings.border * car_length)
        sides = np.array([width, height]) / zoom
        center = _center(photograph.objects, sides, rng) if rng.random() >= settings.empty_share else None
        whole_height, whole_width = photograph.image.shape[:2]
        x1, x2 = _span(whole_width, margin, sides[0], None if center is None else center[0], rng)
        y1, y2 = _span(whole_height, margin, sides[1], None if center is None else center[1], rng)
        boxes, class_ids = _clip(photograph.objects, np.array([x1, y1, x2, y2]), settings.min_visible)
        new_width, new_height = min(width, round((x2 - x1) * zoom)), min(height, round((y2 - y1) * zoom))
        image = _resize(photograph.image[y1:y2, x1:x2], new_width, new_height, rng)
        boxes = (boxes - [x1, y1, x1, y1]) * np.tile([new_width / (x2 - x1), new_height / (y2 - y1)], 2)
        if self.cutouts and rng.random() < settings.paste_share:
            boxes, class_ids = self._with_pasted(image, boxes, class_ids, zoom * car_length)
        return LabeledImage(photograph.name, image, ground_truth(boxes, class_ids))

    def _ground(self, width: int, height: int) -> LabeledImage | None:
        """An empty piece of another picture, at most `width` × `height` pixels; None where none is wanted or found."""
        settings, rng = self.settings, self.rng
        if not self.grounds or rng.random() >= settings.ground_share:
            return None
        picture = self.grounds[rng.integers(len(self.grounds))]
        zoom = rng.uniform(1 / settings.max_zoom, settings.max_zoom)
        piece = empty_piece(picture, settings.ground_from, (width / zoom, height / zoom), rng)
        if piece is None:
            return None
        new_width, new_height = (
            min(most, round(side * zoom)) for most, side in zip((width, height), piece.shape[1::-1], strict=True)
        )
        image = _resize(piece, new_width, new_height, rng)
        boxes, class_ids = np.zeros((0, 4), np.float32), np.zeros(0, np.int32)
        if self.cutouts and rng.random() < settings.paste_share:
            car_length = float(np.exp(rng.uniform(*np.log(settings.car_px))))
            boxes, class_ids = self._with_pasted(image, boxes, class_ids, car_length)
        return LabeledImage(picture.name, image, ground_truth(boxes, class_ids))

    def _with_pasted(
        self, image: Image, boxes: np.ndarray, class_ids: np.ndarray, car_length: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Boxes and classes with those of vehicles that are pasted into the image, which is changed."""
        rng = self.rng
        shadow = tuple(rng.uniform(-0.22, 0.22, 2)) if rng.random() < 0.6 else (0.0, 0.0)
        for _ in range(rng.integers(1, self.settings.paste_most + 1)):
            of_class = self.cutouts[int(rng.choice(sorted(self.cutouts)))]
            cutout = of_class[rng.integers(len(of_class))]
            box = paste(image, boxes, cutout, car_length, shadow, rng)
            if box is not None:
                boxes, class_ids = np.concatenate([boxes, box[None]]), np.append(class_ids, cutout.class_id)
        return boxes, class_ids


def _center(objects: Detections, sides: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """A point near a vehicle; first its class is drawn, so that buses are seen as often as cars."""
    if not len(objects):
        return None
    class_id = rng.choice(np.unique(objects.class_ids)) if rng.random() < 0.5 else rng.choice(objects.class_ids)
    boxes = objects.boxes[objects.class_ids == class_id]
    box = boxes[rng.integers(len(boxes))]
    center: np.ndarray = (box[:2] + box[2:]) / 2 + rng.uniform(-0.4, 0.4, 2) * sides
    return center


def _span(length: int, margin: int, side: float, center: float | None, rng: np.random.Generator) -> tuple[int, int]:
    """First and last pixel of the crop along one axis, inside the margin; the whole length where the tile is longer."""
    low, high = margin, length - margin
    if side >= high - low:
        return low, high
    start = rng.uniform(low, high - side) if center is None else np.clip(center - side / 2, low, high - side)
    return round(start), round(start + side)


def _clip(objects: Detections, crop: np.ndarray, min_visible: float) -> tuple[np.ndarray, np.ndarray]:
    """Boxes cut to the crop, without those of which too little is left."""
    boxes = np.clip(objects.boxes, np.tile(crop[:2], 2), np.tile(crop[2:], 2))
    area, whole = _area(boxes), _area(objects.boxes)
    kept = area >= min_visible * np.maximum(whole, 1e-6)
    return boxes[kept], objects.class_ids[kept]


def _area(boxes: np.ndarray) -> np.ndarray:
    areas: np.ndarray = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
    return areas


def _resize(image: Image, width: int, height: int, rng: np.random.Generator) -> Image:
    """Resize half of the pieces as the runtime's letterbox does it, half with area averaging."""
    how = cv2.INTER_LINEAR if width >= image.shape[1] or rng.random() < 0.5 else cv2.INTER_AREA
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), np.uint8)


def _spoiled(image: Image, rng: np.random.Generator) -> Image:
    """Sensor noise, then JPEG blocks."""
    noise = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(1, 8))
    noisy = (image + noise).clip(0, 255).astype(np.uint8)
    _, packed = cv2.imencode('.jpg', noisy, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 85))])
    return np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)


def turn(boxes: np.ndarray, size: int, quarter_turns: int) -> np.ndarray:
    """Boxes in a square image of `size` pixels after `np.rot90(image, quarter_turns)`."""
    for _ in range(quarter_turns % 4):
        x1, y1, x2, y2 = np.asarray(boxes).reshape(-1, 4).T
        boxes = np.stack([y1, size - x2, y2, size - x1], axis=1)
    return np.asarray(boxes).reshape(-1, 4)
