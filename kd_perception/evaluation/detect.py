"""Detects on images and videos: COCO results, and annotated pictures beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2

from kd_perception.bags.sources import IMAGE_SUFFIXES, SourceError, images_in, read_image
from kd_perception.bags.video_source import VideoSource
from kd_perception.detection.detections import Detections
from kd_perception.detection.detector import Detector
from kd_perception.detection.drawing import draw
from kd_perception.detection.image import BgrImage
from kd_perception.errors import KdPerceptionError
from kd_perception.whole_file import whole_file, write_whole

if TYPE_CHECKING:
    from kd_perception.bags.video import Video

JPEG_QUALITY = 92
Proceed = Callable[[], bool]
"""Called after every frame; False ends the run there."""


@dataclass(frozen=True)
class InputFile:
    """A file to detect on: an image, or a video that could be opened."""

    path: Path
    video: VideoSource | None = None

    @property
    def frames(self) -> int:
        """How many frames it is said to have; at least 1."""
        return (self.video.count or 1) if self.video else 1


def find_files(paths: Iterable[Path]) -> tuple[list[InputFile], list[str]]:
    """The files behind what a user named, each once, and a line for each thing that is none.

    A folder stands for its images; a file without the suffix of an image is taken for a video.
    """
    files: dict[Path, InputFile] = {}
    problems = []
    for path in paths:
        try:
            for found in _files_at(path):
                files.setdefault(found.path.resolve(), found)
        except SourceError as error:
            problems.append(str(error))
    return list(files.values()), problems


def _files_at(path: Path) -> list[InputFile]:
    if path.is_dir():
        if (path / 'metadata.yaml').exists():
            raise SourceError(f'{path} is a bag: kd_perception evaluate reads it')
        return [InputFile(image) for image in images_in(path)]
    if not path.exists():
        raise SourceError(f'{path}: no such file or folder')
    return [InputFile(path, None if path.suffix.lower() in IMAGE_SUFFIXES else VideoSource(path))]


class FileDetection:
    """Detects on one file after another and keeps what was found.

    Attributes:
        images: COCO's entry of every image and video frame.
        results: COCO's entry of every detection.
    """

    def __init__(self, detector: Detector, out: Path, pictures: bool = True) -> None:
        """Detect with `detector`, leave everything in the folder `out`, and draw only if `pictures`."""
        self.images: list[dict[str, Any]] = []
        self.results: list[dict[str, Any]] = []
        self._detector = detector
        self._out = out
        self._pictures = pictures
        self._names: set[str] = set()

    def add(self, file: InputFile, proceed: Proceed) -> None:
        """Detect on an image, or on every frame of a video until `proceed` says no.

        Raises:
            ImageError, SourceError: the file cannot be decoded.
            EngineError: the engine failed on it.
            KdPerceptionError: a picture cannot be written.
        """
        if file.video:
            self._add_video(file.path, file.video, proceed)
        else:
            self._add_image(file.path)
            proceed()

    def write(self) -> None:
        """Write detections.json and images.json. Raises KdPerceptionError."""
        categories = [{'id': index, 'name': name} for index, name in enumerate(self._detector.bundle.classes)]
        index = {'images': self.images, 'categories': categories, 'annotations': []}
        _make_folder(self._out)
        write_whole(self._out / 'images.json', json.dumps(index, indent=1) + '\n')
        write_whole(self._out / 'detections.json', f'[{_lines(self.results)}]\n')

    def _add_image(self, path: Path) -> None:
        image = read_image(path)
        target = self._target(path, '.jpg') if self._pictures else None
        picture = self._detect(image, {'file_name': path.as_posix()}, target)
        if target:
            stream = cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
            with whole_file(target) as scratch:
                scratch.write_bytes(stream.tobytes())

    def _add_video(self, path: Path, source: VideoSource, proceed: Proceed) -> None:
        target = self._target(path, '.mp4') if self._pictures else None
        with ExitStack() as stack:
            video = stack.enter_context(_video(stack.enter_context(whole_file(target)))) if target else None
            number = -1
            for number, frame in enumerate(source.frames()):
                seconds = number / source.fps if frame.seconds is None else frame.seconds
                entry = {
                    'file_name': f'{path.as_posix()}/{number:06d}',
                    'video': path.as_posix(),
                    'frame': number,
                    'seconds': round(seconds, 6),
                }
                picture = self._detect(frame.image, entry, target)
                if video:
                    video.add(picture, seconds)
                if not proceed():
                    break
            if number < 0:
                raise SourceError('no frame of the video can be decoded')

    def _detect(self, image: BgrImage, entry: dict[str, Any], target: Path | None) -> BgrImage:
        """Detect on one image and note it; returns the image, drawn on where there is a `target` for pictures."""
        detections, _ = self._detector.detect(image)
        height, width = image.shape[:2]
        entry = {'id': len(self.images) + 1, **entry, 'width': width, 'height': height}
        if target:
            entry['picture'] = target.relative_to(self._out).as_posix()
            draw(image, detections, self._detector.bundle.classes)
        self.images.append(entry)
        self.results += coco_results(detections, entry['id'])
        return image

    def _target(self, path: Path, suffix: str) -> Path:
        """A place of its own for the picture of `path`, also where file names are the same in upper and lower case."""
        folder = self._out / 'annotated'
        _make_folder(folder)
        name, number = path.stem + suffix, 1
        while name.casefold() in self._names:
            number += 1
            name = f'{path.stem}_{number}{suffix}'
        self._names.add(name.casefold())
        return folder / name


def coco_results(detections: Detections, image_id: int) -> list[dict[str, Any]]:
    """One image's detections as COCO's results: bbox is x, y, width, height in pixels."""
    rows = zip(detections.boxes.tolist(), detections.class_ids.tolist(), detections.scores.tolist(), strict=True)
    return [
        {
            'image_id': image_id,
            'category_id': class_id,
            'bbox': [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)],
            'score': round(score, 6),
        }
        for (x1, y1, x2, y2), class_id, score in rows
    ]


def _lines(entries: Sequence[dict[str, Any]]) -> str:
    return ''.join(f'{"," if index else ""}\n{json.dumps(entry)}' for index, entry in enumerate(entries))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KdPerceptionError(f'{folder} cannot be made: {error.strerror}') from error


def _video(path: Path) -> AbstractContextManager[Video]:
    try:
        from kd_perception.bags.video import Video
    except ImportError as error:
        raise KdPerceptionError(
            'annotated videos need the library av: pip install "av>=12", or leave them out with --no-pictures'
        ) from error
    return Video(path)
