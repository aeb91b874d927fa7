"""What emulated Arm processors detect is what this machine detects. `make test-arm` makes the folder that the tests need."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from kd_perception import engines
from kd_perception.benchmark.parity import compare
from kd_perception.bundles.bundle import load_bundle
from kd_perception.detection.detections import Detections
from kd_perception.detection.detector import Detector
from kd_perception.engines.options import EngineOptions
from kd_perception.scene import Scene

EMULATOR = 'qemu-aarch64-static'
BUNDLE = 'models/aerial_traffic_tiny'
FRAMES = 3

CPU_INFO = {
    # Raspberry Pi 4, and 5. ONNX Runtime chooses its kernels by this text, so it must fit what the emulator can do.
    'cortex-a72': ('fp asimd evtstrm crc32 cpuid', '0xd08'),
    'cortex-a76': (
        'fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp',
        '0xd0b',
    ),
}

RUNS = [
    # engine, artifact, computed in, largest difference of scores, lowest IoU of counterparts
    ('onnxruntime', 'fp32', 'fp32', 0.001, 0.999),
    ('onnxruntime', 'int8', 'int8', 0.04, 0.88),
    ('ncnn', 'fp32', 'fp32', 0.001, 0.999),
    ('ncnn', 'fp32', 'fp16', 0.04, 0.88),
]


@pytest.fixture(scope='session')
def arm_root():
    folder = os.environ.get('KD_ARM_ROOT')
    if not folder:
        pytest.skip('emulated Arm is tested by `make test-arm`')
    if shutil.which(EMULATOR) is None:
        pytest.fail(f'no {EMULATOR}: sudo apt install qemu-user-static')
    return Path(folder).resolve()


@pytest.fixture(scope='session')
def frames():
    scene = Scene(0, 640, 480)
    return [scene.frame(30 * number).image for number in range(FRAMES)]


@pytest.fixture(scope='session')
def frames_file(frames, tmp_path_factory):
    file = tmp_path_factory.mktemp('arm') / 'frames.npz'
    np.savez(file, *frames)
    return file


@pytest.fixture(scope='session')
def here(repository, frames):
    """What this machine's ONNX Runtime detects in FP32 and INT8."""
    bundle = load_bundle(repository / BUNDLE)
    found = {}
    for precision in ('fp32', 'int8'):
        engine = engines.load(bundle, bundle.artifact('onnxruntime', precision), EngineOptions(threads=1))
        detector = Detector(bundle, engine)
        found[precision] = [detector.detect(frame)[0] for frame in frames]
        detector.close()
    return found


def detect_on_arm(repository, root: Path, cpu: str, frames_file: Path, engine: str, artifact: str, precision: str):
    features, part = CPU_INFO[cpu]
    entry = (
        'processor\t: {}\nBogoMIPS\t: 108.00\nFeatures\t: {}\nCPU implementer\t: 0x41\n'
        'CPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: {}\nCPU revision\t: 1\n\n'
    )
    (root / 'root/proc/cpuinfo').write_text(''.join(entry.format(core, features, part) for core in range(4)))
    command = [EMULATOR, '-L', root / 'root', '-cpu', cpu, root / 'root/usr/bin/python3']
    script = [repository / 'test/arm/detect_on_arm.py', repository / BUNDLE, engine, artifact, precision, frames_file]
    paths = os.pathsep.join([str(repository), str(root / 'site')])
    environment = {
        'PATH': os.environ['PATH'],
        'PYTHONPATH': paths,
        'PYTHONDONTWRITEBYTECODE': '1',
        'OMP_NUM_THREADS': '1',
    }
    done = subprocess.run([*command, *script], env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    return [
        Detections(
            np.array(one['boxes'], np.float32).reshape(-1, 4),
            np.array(one['scores'], np.float32),
            np.array(one['class_ids'], np.int32),
        )
        for one in json.loads(done.stdout.splitlines()[-1])
    ]


@pytest.mark.parametrize('cpu', CPU_INFO)
@pytest.mark.parametrize(('engine', 'artifact', 'precision', 'score', 'iou'), RUNS)
def test_an_arm_processor_detects_what_this_one_does(
    repository, arm_root, frames_file, here, cpu, engine, artifact, precision, score, iou
):
    found = detect_on_arm(repository, arm_root, cpu, frames_file, engine, artifact, precision)
    parity = compare(here['int8' if precision == 'int8' else 'fp32'], found)
    assert parity.reference >= 10, 'too little was found to say anything'
    assert parity.worst_score <= score
    assert parity.worst_iou >= iou
    # Near the threshold a rounding decides.
    allowed = 0 if precision == 'fp32' else 2
    assert parity.missing <= allowed
    assert parity.extra <= allowed
