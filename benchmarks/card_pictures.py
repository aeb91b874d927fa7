"""The pictures of a model card: what a bundle reports, a row of pictures for each folder.

    python -m benchmarks.card_pictures models/aerial_traffic ../shared/data/aerial_traffic/images/val --out out/sheet.jpg

Pictures are spread evenly over a folder, in the order of their names, so that nobody chooses the good ones. Drawn is what the
bundle's first artifact reports at the bundle's own thresholds.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from kd_perception import engines
from kd_perception.bags.sources import images_in, read_image
from kd_perception.bundles.bundle import load_bundle
from kd_perception.detection.detector import Detector
from kd_perception.detection.drawing import draw, fit
from kd_perception.detection.image import BgrImage
from kd_perception.engines.options import EngineOptions

CELL = (360, 270)
GAP = 4
QUALITY = 80


def sheet(bundle_folder: Path, folders: list[Path], columns: int) -> BgrImage:
    """A page with a row for each folder."""
    bundle = load_bundle(bundle_folder)
    artifact = bundle.artifacts[0]
    engine = engines.load(bundle, artifact, EngineOptions(threads=1))
    with closing(Detector(bundle.operated_as(artifact), engine)) as detector:
        rows = [
            np.concatenate([_cell(detector, file, bundle.classes) for file in _spread(folder, columns)], 1)
            for folder in folders
        ]
    return np.concatenate(rows)


def _spread(folder: Path, count: int) -> list[Path]:
    files = images_in(folder)
    if len(files) < count:
        raise SystemExit(f'{folder} has {len(files)} pictures, {count} are needed')
    return [files[(2 * place + 1) * len(files) // (2 * count)] for place in range(count)]


def _cell(detector: Detector, file: Path, classes: tuple[str, ...]) -> BgrImage:
    image = read_image(file)
    detections, _ = detector.detect(image)
    scale = max(1, round(720 / max(image.shape[:2])))  # lines and letters stay thin in small pictures
    large = cv2.resize(image, None, fx=scale, fy=scale)
    drawn = draw(large, replace(detections, boxes=detections.boxes * scale), classes)
    return cv2.copyMakeBorder(fit(drawn, CELL), 0, GAP, 0, GAP, cv2.BORDER_CONSTANT)


def main() -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(prog='python -m benchmarks.card_pictures', description=__doc__.split('\n')[0])
    parser.add_argument('bundle', type=Path, help='folder of the bundle')
    parser.add_argument('folders', type=Path, nargs='+', help='folders of pictures, a row each')
    parser.add_argument('--columns', type=int, default=5, help='pictures in a row; %(default)s by default')
    parser.add_argument('--out', type=Path, required=True, help='the JPEG file')
    options = parser.parse_args()
    page = sheet(options.bundle, options.folders, options.columns)
    cv2.imwrite(str(options.out), page, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    print(f'{options.out}: {page.shape[1]} x {page.shape[0]}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
