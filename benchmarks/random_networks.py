"""Benchmarks of networks with random weights: their files in FP32 and INT8, and a run from its options to its page.

Size and time depend on the structure alone, so nobody need train what is timed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import machine, report
from training.errors import TrainingError
from training.export.onnx_export import export
from training.quantize.ptq import quantize
from training.quantize.qdq import QuantizeSettings

PRECISIONS = ('fp32', 'int8')
CALIBRATION_IMAGES = 2


def write_files(network: nn.Module, width: int, height: int, folder: Path) -> dict[str, Path]:
    """The network as ONNX by precision; INT8's ranges come from noise.

    Args:
        width: of the input, pixels.
        height: of the input, pixels.
    """
    files = {precision: folder / f'{precision}.onnx' for precision in PRECISIONS}
    export(network, width, height, files['fp32'])
    numbers = np.random.default_rng(0)
    images = [numbers.integers(0, 256, (height, width, 3), np.uint8) for _ in range(CALIBRATION_IMAGES)]
    quantize(files['fp32'], files['int8'], images, QuantizeSettings())
    return files


def run(
    name: str,
    options: argparse.Namespace,
    measure: Callable[[argparse.Namespace, Path], list[dict[str, Any]]],
    markdown: Callable[[dict[str, Any]], str],
) -> int:
    """Measure in a folder of its own, leave `<name>.json` and `<name>.md` in `options.out`; returns the exit status."""
    torch.set_num_threads(1)
    results: dict[str, Any] = {'machine': machine.describe(), 'options': vars(options) | {'out': str(options.out)}}
    try:
        with tempfile.TemporaryDirectory() as folder:
            results['rows'] = measure(options, Path(folder))
    except TrainingError as error:
        print(f'benchmarks.{name}: {error}', file=sys.stderr)
        return 1
    report.publish(name, results, markdown(results), options.out)
    return 0
