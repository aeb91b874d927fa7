"""`python -m benchmarks.jpeg`: what looking for missing pixels costs, against OpenCV's decoder alone, as a markdown table."""

from __future__ import annotations

import statistics
import time

import cv2
import numpy as np

from kd_perception.detection.image import decode_compressed
from kd_perception.scene import Scene, SceneSettings

SIZES = ((640, 480), (1280, 720), (1920, 1080))
QUALITIES = (75, 95)
ROUNDS = 31


def main() -> None:
    """Measure both on frames of a synthetic flight, taken in turns, with one thread."""
    cv2.setNumThreads(1)
    print('| picture | JPEG quality | kB | decode_compressed, ms | cv2.imdecode, ms |')
    print('|---|---|---|---|---|')
    for width, height in SIZES:
        frame = Scene(3, width, height, 30.0, SceneSettings(ground_sample_distance=64.0 / width)).frame(0).image
        for quality in QUALITIES:
            stream = cv2.imencode('.jpg', frame, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
            ours, plain = _medians(stream)
            print(f'| {width} × {height} | {quality} | {len(stream) / 1000:.0f} | {ours:.1f} | {plain:.1f} |')


def _medians(stream: bytes) -> tuple[float, float]:
    ours, plain = [], []
    buffer = np.frombuffer(stream, np.uint8)
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        decode_compressed(stream)
        between = time.perf_counter()
        cv2.imdecode(buffer, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        end = time.perf_counter()
        ours.append(1e3 * (between - begin))
        plain.append(1e3 * (end - between))
    return statistics.median(ours), statistics.median(plain)


if __name__ == '__main__':
    main()
