"""Runs under emulation: one bundle, one engine, some pictures; prints what it found as JSON.

Usage: detect_on_arm.py BUNDLE ENGINE ARTIFACT_PRECISION PRECISION FRAMES.npz
"""

from __future__ import annotations

import json
import sys

import numpy as np

from kd_perception import engines
from kd_perception.bundles.bundle import load_bundle
from kd_perception.detection.detector import Detector
from kd_perception.engines.options import EngineOptions


def main(folder: str, engine: str, artifact_precision: str, precision: str, frames: str) -> None:
    bundle = load_bundle(folder)
    artifact = next(a for a in bundle.artifacts if a.precision == artifact_precision)
    loaded = engines.load(bundle, artifact, EngineOptions(threads=1, precision=precision), engine)
    detector = Detector(bundle, loaded)
    with np.load(frames) as archive:
        found = [detector.detect(archive[name])[0] for name in archive.files]
    answers = [
        {'boxes': d.boxes.tolist(), 'scores': d.scores.tolist(), 'class_ids': d.class_ids.tolist()} for d in found
    ]
    print(json.dumps(answers))


if __name__ == '__main__':
    main(*sys.argv[1:])
