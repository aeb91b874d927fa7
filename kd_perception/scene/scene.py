"""A scene: frames of a drone's flight over traffic with the exact box of every vehicle."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from kd_perception.detection.detections import Detections
from kd_perception.scene.camera import Camera, Matrix, project
from kd_perception.scene.ground import OVERLAY_CANOPY, OVERLAY_LIGHT, paint
from kd_perception.scene.planning import plan
from kd_perception.scene.settings import SceneSettings, draw_settings
from kd_perception.scene.space import SceneSpace, camera_pose, depth_image, vehicles_in_space
from kd_perception.scene.traffic import Traffic
from kd_perception.scene.vehicle_parts import Sprite, Vehicle

Image = NDArray[np.uint8]
FixedPoints = NDArray[np.int32]

_FRACTION_BITS = 4  # polygon corners are given to OpenCV in sixteenths of a pixel
MIN_VISIBLE = 0.4
"""Share of a vehicle's outline from which on it is an object to be found; what lies outside of the image is out of sight."""
MIN_SIDE = 3.0
"""Shortest side of what is seen of such an object, pixels."""
_NOISE_SHIFTS = 64
_LONGEST = 19.0


@dataclass(frozen=True)
class SceneFrame:
    """One frame.

    Attributes:
        image: (height, width, 3) uint8 BGR.
        truth: a box with score 1 for every vehicle of which enough is in sight, in pixels of `image`; its track id says which
            vehicle of the scene it is.
        ignored: float32 (M, 4), the outlines of vehicles of which something, but not enough, is in sight: whoever finds one is
            neither right nor wrong.
        stamp: seconds since the first frame.
    """

    image: Image
    truth: Detections
    ignored: NDArray[np.float32]
    stamp: float


class Scene:
    """A drone's flight over streets; every frame is a pure function of the seed, the settings and its number.

    Args:
        seed: decides the place and, unless `settings` are given, the camera, the light and the traffic.
        width: of the frames, pixels.
        height: of the frames, pixels.
        fps: frames per second of flight.
        settings: what to show; drawn from the seed when None.

    Raises:
        ValueError: a size or rate that is not positive.

    Example:
        >>> frame = Scene(seed=3, width=320, height=240).frame(0)
        >>> frame.image.shape
        (240, 320, 3)
    """

    def __init__(
        self,
        seed: int = 0,
        width: int = 640,
        height: int = 480,
        fps: float = 30.0,
        settings: SceneSettings | None = None,
    ) -> None:
        if min(width, height) < 1 or fps <= 0:
            raise ValueError(f'a scene of {width}x{height} pixels at {fps} frames/s; all three must be positive')
        self.seed, self.width, self.height, self.fps = seed, width, height, fps
        self.settings = settings if settings is not None else draw_settings(seed)
        rng = np.random.default_rng(seed)
        self._camera = Camera(self.settings, width, height, rng)
        half_size = self._camera.half_size()
        layout = plan(self.settings, half_size, rng)
        scale = 1.0 / self.settings.ground_sample_distance
        self._traffic = Traffic(layout, 1.3 * scale, rng)
        self._ground = paint(layout, self.settings, scale, rng)
        # From the ground picture's pixel centers to meters.
        middle = half_size - 0.5 / scale
        self._to_meters = np.array([(1 / scale, 0, -middle), (0, 1 / scale, -middle), (0, 0, 1)])
        self._noise = self._make_noise(rng)
        angle = np.deg2rad(self.settings.sun_azimuth)
        self._shadow = -np.array([np.cos(angle), np.sin(angle)]) * self.settings.shadow_length
        self._dark = int(255 * (1.0 - self.settings.shadow_depth))

    def frame(self, k: int) -> SceneFrame:
        """Frame number `k`, 0 or more: the same bytes whenever and in whatever order it is asked for."""
        stamp = k / self.fps
        projection = self._camera.projection(stamp)
        ground, light, canopy = self._seen(projection)
        shadows = np.full((self.height, self.width), 255, np.uint8)
        owners = np.zeros((self.height, self.width), np.uint16)
        image = ground.copy()

        bodies = self._bodies(stamp, projection)
        for body in bodies:
            cv2.fillConvexPoly(shadows, body.shadow, self._dark, cv2.LINE_AA, _FRACTION_BITS)
        for index, body in enumerate(bodies, start=1):
            body.paint(image, owners, index)
        for body in bodies:
            _restore(image, ground, canopy, body.window)
        owners[canopy > 127] = 0
        truth, ignored = self._truth(bodies, owners)
        shaded = self._shade(image, light, shadows, owners, canopy)
        return SceneFrame(self._expose(shaded, k), truth, ignored, stamp)

    def space(self, k: int) -> SceneSpace:
        """Frame number `k` in meters: camera, depth, and the true place of every vehicle in the frame's truth."""
        stamp = k / self.fps
        projection, poses = self._camera.projection(stamp), self._traffic.poses(stamp)
        shown = self.frame(k).truth.track_ids
        indices = np.zeros(0, np.int64) if shown is None else shown - 1
        centers, sizes = vehicles_in_space([self._traffic.vehicles[i] for i in indices], poses[indices])
        near = self._near(poses, projection)
        solids = [(self._traffic.vehicles[i], _placed(self._traffic.vehicles[i].points, poses[i])) for i in near]
        depth = depth_image(projection, (self.width, self.height), solids)
        intrinsics = self._camera.intrinsics()
        return SceneSpace(intrinsics, *camera_pose(projection, intrinsics), depth, centers, sizes)

    def _seen(self, projection: Matrix) -> tuple[Image, Image, Image]:
        """What the camera sees of the bare ground: its colors, its light, and the cover of crowns."""
        matrix = projection[:, [0, 1, 3]] @ self._to_meters
        view = cv2.warpPerspective(self._ground, matrix, (self.width, self.height), flags=cv2.INTER_LINEAR)
        overlay = cv2.extractChannel(view, 3)
        ground = np.asarray(cv2.cvtColor(view, cv2.COLOR_BGRA2BGR), np.uint8)
        return (
            ground,
            np.asarray(cv2.LUT(overlay, OVERLAY_LIGHT), np.uint8),
            np.asarray(cv2.LUT(overlay, OVERLAY_CANOPY), np.uint8),
        )

    def _bodies(self, stamp: float, projection: Matrix) -> list[_Body]:
        """The vehicles near the view, the farthest first."""
        poses = self._traffic.poses(stamp)
        vehicles = self._traffic.vehicles
        near = self._near(poses, projection)
        if not len(near):
            return []
        counts = [len(vehicles[i].points) for i in near]
        ends = np.cumsum(counts).tolist()
        world = np.concatenate([vehicles[i].points for i in near])
        world = _placed(world, np.repeat(poses[near], counts, axis=0))
        pixels = project(projection, world)
        world[:, :2] += self._shadow * world[:, 2:]
        world[:, 2] = 0.0
        shadows = _fixed(project(projection, world))
        size = (self.width, self.height)
        return [
            _Body(int(i) + 1, vehicles[i], pixels[end - count : end], shadows[end - count :][: vehicles[i].solid], size)
            for i, count, end in zip(near, counts, ends, strict=True)
        ]

    def _near(self, poses: NDArray[np.float64], projection: Matrix) -> NDArray[np.intp]:
        """Which vehicles may touch the view, sorted from far to near."""
        centers = np.concatenate([poses[:, :2], np.zeros((len(poses), 1))], axis=1)
        places = project(projection, centers)
        depths = centers @ projection[2, :3] + projection[2, 3]
        margin = _LONGEST / 2 * self.settings.focal_ratio * self.width / np.maximum(depths, 1.0)
        inside = (places > -margin[:, None]) & (places < np.array([self.width, self.height]) + margin[:, None])
        near = np.flatnonzero(inside.all(axis=1) & (depths > 0))
        return near[np.argsort(-depths[near], kind='stable')]

    def _truth(self, bodies: list[_Body], owners: NDArray[np.uint16]) -> tuple[Detections, NDArray[np.float32]]:
        """What is enough in sight, and the outlines inside the image of what is not, though something of it is."""
        boxes: list[list[float]] = []
        class_ids: list[int] = []
        ids: list[int] = []
        ignored: list[list[float]] = []
        limit = [self.width, self.height] * 2
        for index, body in enumerate(bodies, start=1):
            x0, y0, x1, y1 = body.window
            seen = np.asarray(owners[y0:y1, x0:x1] == index, np.uint8)
            pixels = cv2.countNonZero(seen)
            if not pixels:
                continue
            x, y, w, h = cv2.boundingRect(seen)
            left, top = max(x0 + x, body.box[0]), max(y0 + y, body.box[1])
            right, bottom = min(x0 + x + w, body.box[2]), min(y0 + y + h, body.box[3])
            if pixels >= MIN_VISIBLE * body.area and min(right - left, bottom - top) >= MIN_SIDE:
                boxes.append([left, top, right, bottom])
                class_ids.append(body.vehicle.class_id)
                ids.append(body.number)
            else:
                ignored.append([min(max(side, 0.0), most) for side, most in zip(body.box, limit, strict=True)])
        truth = Detections(
            np.array(boxes, np.float32).reshape(-1, 4),
            np.ones(len(boxes), np.float32),
            np.array(class_ids, np.int32),
            np.array(ids, np.int64),
        )
        return truth, np.array(ignored, np.float32).reshape(-1, 4)

    # Light and lens

    def _shade(self, image: Image, light: Image, shadows: Image, owners: NDArray[np.uint16], canopy: Image) -> Image:
        """Darkens what lies in shadow; vehicles throw none on themselves, crowns catch none."""
        shadows = np.asarray(cv2.blur(shadows, (3, 3)), np.uint8)
        shadows[owners > 0] = 255
        both = cv2.max(cv2.min(light, shadows), canopy)
        return np.asarray(cv2.multiply(image, cv2.merge([both] * 3), scale=1 / 255), np.uint8)

    def _expose(self, image: Image, k: int) -> Image:
        """Lens blur, tone curve with a slow drift of exposure, and sensor noise."""
        s = self.settings
        if s.blur > 0.3:
            image = np.asarray(cv2.GaussianBlur(image, (5, 5), s.blur), np.uint8)
        drift = 1.0 + 0.02 * np.sin(k / self.fps * 0.7 + self.seed)
        levels = np.arange(256.0)[:, None] / 255.0
        tones = ((levels - 0.45) * s.contrast + 0.45) * s.exposure * drift * np.array(s.cast)
        tones = tones * (1.0 - s.haze) + 0.75 * s.haze
        curve = np.clip(np.round(tones * 255.0), 0, 255).astype(np.uint8).reshape(256, 1, 3)
        toned = cv2.LUT(image, curve)
        x, y = np.random.default_rng((self.seed, k)).integers(0, _NOISE_SHIFTS, 2)
        noise = self._noise[y : y + self.height, x : x + self.width]
        return np.asarray(cv2.addWeighted(toned, 1.0, noise, 1.0, -128.0), np.uint8)

    def _make_noise(self, rng: np.random.Generator) -> Image:
        """Sensor noise around 128, mostly of brightness, a little larger than a frame."""
        shape = (self.height + _NOISE_SHIFTS, self.width + _NOISE_SHIFTS)
        gray = rng.standard_normal(shape, np.float32) * (self.settings.noise * 0.85)
        coarse = rng.standard_normal((shape[0] // 2 + 1, shape[1] // 2 + 1, 3), np.float32) * (
            self.settings.noise * 0.6
        )
        color = cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_LINEAR)
        return np.clip(color + (gray[..., None] + 128.5), 0, 255).astype(np.uint8)


def _placed(points: NDArray[np.float64], poses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points (N, 3) of vehicles with poses (N, 3) or (3,), in the world."""
    headings = poses[..., 2]
    cos, sin = np.cos(headings), np.sin(headings)
    x, y, z = points.T
    return np.stack([cos * x - sin * y + poses[..., 0], sin * x + cos * y + poses[..., 1], z], axis=1)


class _Body:
    """One vehicle in one frame: its outlines in the image.

    Args:
        number: which vehicle of the scene, from 1 on.
        vehicle: what it is.
        pixels: (K, 2) where the vehicle's points are in the image.
        shadow: (solid, 2) where the sun throws its outline.
        size: of the image.

    Attributes:
        box: exact bounds x0, y0, x1, y1 of its whole outline, pixels.
        area: of its whole outline, pixels.
        window: whole-pixel bounds of the outline inside the image.
        shadow: outline on the ground in fixed point.
    """

    def __init__(
        self, number: int, vehicle: Vehicle, pixels: Matrix, shadow: FixedPoints, size: tuple[int, int]
    ) -> None:
        self.number = number
        self.vehicle = vehicle
        self.shadow = cv2.convexHull(shadow)
        self._pixels = pixels
        self._fixed = _fixed(pixels)
        solid = pixels[: vehicle.solid]
        self.area = cv2.contourArea(cv2.convexHull(self._fixed[: vehicle.solid])) / 4**_FRACTION_BITS
        low_x, low_y = (solid.min(axis=0) + 0.5).tolist()
        high_x, high_y = (solid.max(axis=0) + 0.5).tolist()
        self.box = (low_x, low_y, high_x, high_y)
        x0, y0 = max(int(low_x) - 1, 0), max(int(low_y) - 1, 0)
        x1, y1 = min(int(high_x) + 2, size[0]), min(int(high_y) + 2, size[1])
        self.window = (x0, y0, max(x0, x1), max(y0, y1))

    def paint(self, image: Image, owners: NDArray[np.uint16], index: int) -> None:
        """Paints sides and tops into `image` and its index into `owners`."""
        x0, y0, x1, y1 = self.window
        if x0 == x1 or y0 == y1:
            return
        vehicle = self.vehicle
        for slab, (start, end), frame in zip(vehicle.slabs, vehicle.slices, vehicle.frames, strict=True):
            outline = cv2.convexHull(self._fixed[start:end])
            cv2.fillConvexPoly(image, outline, slab.side, cv2.LINE_AA, _FRACTION_BITS)
            cv2.fillConvexPoly(owners, outline, index, cv2.LINE_8, _FRACTION_BITS)
            if slab.top is not None:
                _paint_top(image[y0:y1, x0:x1], slab.top, self._pixels[frame : frame + 3] - (x0, y0))


def _paint_top(part: Image, top: Sprite, frame: Matrix) -> None:
    """Blends a sprite into a part of an image; `frame` is where the pixels of (0, 0), (1 m, 0) and (0, 1 m) lie."""
    height, width = top.alpha.shape
    axes = np.stack([(frame[1] - frame[0]) / top.scale[0], (frame[2] - frame[0]) / top.scale[1]], axis=1)
    matrix = np.concatenate([axes, (frame[0] - axes @ ((width - 1) / 2, (height - 1) / 2))[:, None]], axis=1)
    size = (part.shape[1], part.shape[0])
    colors = cv2.warpAffine(top.bgr, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    cover = cv2.warpAffine(top.alpha, matrix, size, flags=cv2.INTER_LINEAR).astype(np.float32)
    cover *= 1 / 255
    part[:] = cv2.blendLinear(part, colors, 1.0 - cover, cover)


def _restore(image: Image, ground: Image, canopy: Image, window: tuple[int, int, int, int]) -> None:
    """Puts crowns back over what was painted in a window."""
    x0, y0, x1, y1 = window
    over = canopy[y0:y1, x0:x1]
    if over.any():
        share = over.astype(np.float32) / 255.0
        image[y0:y1, x0:x1] = cv2.blendLinear(image[y0:y1, x0:x1], ground[y0:y1, x0:x1], 1.0 - share, share)


def _fixed(points: Matrix) -> FixedPoints:
    return np.asarray(np.rint(points * (1 << _FRACTION_BITS)), np.int32)
