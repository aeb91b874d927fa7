"""Where frames stand in each other over time: a small buffer of the transforms that /tf and /tf_static carry."""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kd_perception.errors import KdPerceptionError

Floats = npt.NDArray[np.float64]

KEPT_NS = 10_000_000_000
"""How long transforms are kept, by their stamps."""
MAX_FRAMES = 4096
"""More frames than this are no robot's."""


class TransformError(KdPerceptionError):
    """A transform that is not known, or that cannot be used; says which and why."""


class UnknownFrameError(TransformError):
    """No transform was ever heard of a frame."""


class DisconnectedError(TransformError):
    """Both frames are known, but no chain of transforms joins them."""


class TooEarlyError(TransformError):
    """The stamp lies before what is kept."""


class TooLateError(TransformError):
    """The stamp lies behind the newest transform: it may still come."""


@dataclass(frozen=True)
class Transform:
    """Takes points of one frame to another: rotation (3, 3) and translation (3,) in meters."""

    rotation: Floats
    translation: Floats

    def apply(self, points: Floats) -> Floats:
        """Points (N, 3) in the other frame."""
        return np.asarray(points @ self.rotation.T + self.translation)

    def then(self, following: Transform) -> Transform:
        """This transform, and after it another."""
        return Transform(following.rotation @ self.rotation, following.apply(self.translation))

    def inverse(self) -> Transform:
        """The way back."""
        return Transform(self.rotation.T, -self.rotation.T @ self.translation)


IDENTITY = Transform(np.eye(3), np.zeros(3))


@dataclass
class _Link:
    """A frame's transforms to its parent, the oldest first; a static one holds at all times."""

    parent: str
    static: bool
    stamps: list[int] = field(default_factory=list)
    poses: list[tuple[Floats, Floats]] = field(default_factory=list)  # quaternion and translation


class TransformBuffer:
    """The transforms of the last ten seconds, and those that never change."""

    def __init__(self) -> None:
        self._links: dict[str, _Link] = {}

    def add(
        self, parent: str, child: str, stamp_ns: int, translation: Floats, quaternion: Floats, static: bool = False
    ) -> None:
        """Take in where `child` stands in `parent`.

        Args:
            parent: frame; a leading slash does not matter.
            child: frame.
            stamp_ns: nanoseconds.
            translation: (3,), meters.
            quaternion: (4,), x, y, z, w; is normalized.
            static: holds at all times.

        Raises:
            TransformError: the frames or values cannot be a transform.
        """
        parent, child = parent.lstrip('/'), child.lstrip('/')
        translation, quaternion = np.asarray(translation, np.float64), np.asarray(quaternion, np.float64)
        length = float(np.linalg.norm(quaternion))
        if not parent or not child or parent == child:
            raise TransformError(f'a transform from {parent!r} to {child!r} is none')
        if not (np.isfinite(translation).all() and np.isfinite(length)) or length < 1e-6:
            raise TransformError(f'the transform from {parent!r} to {child!r} holds no valid position and rotation')
        if child not in self._links and len(self._links) >= MAX_FRAMES:
            raise TransformError(f'more than {MAX_FRAMES} frames')
        link = self._links.get(child)
        if link is None or link.parent != parent or link.static != static or static or _begun_anew(link, stamp_ns):
            link = self._links[child] = _Link(parent, static)
        place = bisect.bisect_left(link.stamps, stamp_ns)
        if place < len(link.stamps) and link.stamps[place] == stamp_ns:
            link.poses[place] = (quaternion / length, translation)
            return
        link.stamps.insert(place, stamp_ns)
        link.poses.insert(place, (quaternion / length, translation))
        outdated = bisect.bisect_left(link.stamps, link.stamps[-1] - KEPT_NS)
        del link.stamps[:outdated], link.poses[:outdated]

    def lookup(self, target: str, source: str, stamp_ns: int) -> Transform:
        """What takes points of `source` to `target` at a moment; stamp 0 takes the newest of each.

        Raises:
            UnknownFrameError: nobody has named one of the frames.
            DisconnectedError: they have no ancestor in common.
            TooEarlyError: the moment is no longer kept.
            TooLateError: the moment is not reached yet.
        """
        target, source = target.lstrip('/'), source.lstrip('/')
        if target == source:
            return IDENTITY
        parents = {link.parent for link in self._links.values()}
        for frame in (target, source):
            if frame not in self._links and frame not in parents:
                raise UnknownFrameError(f'no transform names the frame {frame!r}')
        up, down = self._way_up(source), self._way_up(target)
        meeting = next((frame for frame in up if frame in down), None)
        if meeting is None:
            raise DisconnectedError(f'no chain of transforms joins {source!r} and {target!r}')
        to_meeting = self._climb(up[: up.index(meeting)], stamp_ns)
        return to_meeting.then(self._climb(down[: down.index(meeting)], stamp_ns).inverse())

    def _way_up(self, frame: str) -> list[str]:
        """The frame and its ancestors; a circle ends where it closes."""
        way = [frame]
        while (link := self._links.get(way[-1])) is not None and link.parent not in way:
            way.append(link.parent)
        return way

    def _climb(self, frames: list[str], stamp_ns: int) -> Transform:
        whole = IDENTITY
        for frame in frames:
            whole = whole.then(_at(self._links[frame], frame, stamp_ns))
        return whole


def _begun_anew(link: _Link, stamp_ns: int) -> bool:
    """Time has gone back by more than is kept: a bag that starts again."""
    return bool(link.stamps) and stamp_ns < link.stamps[-1] - KEPT_NS


def _at(link: _Link, frame: str, stamp_ns: int) -> Transform:
    stamps = link.stamps
    if link.static or stamp_ns == 0 or stamp_ns == stamps[-1]:
        return _transform(*link.poses[-1])
    where = f'{frame!r} in {link.parent!r}'
    if stamp_ns > stamps[-1]:
        raise TooLateError(f'the newest transform of {where} is {(stamp_ns - stamps[-1]) / 1e9:.3f} s too old')
    if stamp_ns < stamps[0]:
        raise TooEarlyError(f'the oldest transform kept of {where} is {(stamps[0] - stamp_ns) / 1e9:.3f} s too new')
    after = bisect.bisect_left(stamps, stamp_ns)
    if stamps[after] == stamp_ns:
        return _transform(*link.poses[after])
    share = (stamp_ns - stamps[after - 1]) / (stamps[after] - stamps[after - 1])
    (begin, here), (end, there) = link.poses[after - 1], link.poses[after]
    return _transform(_between(begin, end, share), here + share * (there - here))


def _between(begin: Floats, end: Floats, share: float) -> Floats:
    """Spherical interpolation of unit quaternions by the shorter way."""
    cosine = float(begin @ end)
    if cosine < 0:
        end, cosine = -end, -cosine
    if cosine > 0.9999:
        mixed = begin + share * (end - begin)
    else:
        angle = np.arccos(cosine)
        mixed = (np.sin((1 - share) * angle) * begin + np.sin(share * angle) * end) / np.sin(angle)
    return np.asarray(mixed / np.linalg.norm(mixed))


def _transform(quaternion: Floats, translation: Floats) -> Transform:
    x, y, z, w = quaternion.tolist()
    rotation = np.array(
        [
            (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
            (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
            (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
        ]
    )
    return Transform(rotation, translation)


def quaternion_of(rotation: Floats) -> Floats:
    """The unit quaternion x, y, z, w of a rotation (3, 3): the eigenvector of Bar-Itzhack's symmetric matrix."""
    (a, b, c), (d, e, f), (g, h, i) = rotation.tolist()
    symmetric = np.array(
        [
            (a - e - i, d + b, g + c, h - f),
            (d + b, e - a - i, h + f, c - g),
            (g + c, h + f, i - a - e, d - b),
            (h - f, c - g, d - b, a + e + i),
        ]
    )
    return np.asarray(np.linalg.eigh(symmetric)[1][:, -1])
