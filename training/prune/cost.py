"""What a network costs: parameters, GFLOPs, and milliseconds on this machine's CPU by ONNX Runtime."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from training.models.yolov4.network import YOLOv4, deployed
from training.prune.heads import branches, level_maps


@dataclass(frozen=True)
class Cost:
    """What a network costs before it runs.

    Attributes:
        parameters: weights and biases, batch normalizations not fused.
        gflops: of one image, 2 per multiply-add, in units of 1e9.
    """

    parameters: int
    gflops: float


def cost(network: nn.Module, width: int, height: int) -> Cost:
    """Count a detector's parameters and operations.

    Args:
        width: of the input in pixels, height likewise.
    """
    return Cost(count_parameters(network), count_gflops(network, width, height))


def count_parameters(network: nn.Module) -> int:
    """Weights and biases, frozen ones too."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_fused_parameters(network: Any) -> int:
    """The same after the batch normalizations are folded into the convolutions: what is exported."""
    if isinstance(network, YOLOv4):
        network = deployed(network)
        return count_parameters(network) - sum(
            module.num_features for module in network.modules() if isinstance(module, nn.BatchNorm2d)
        )
    return count_parameters(copy.deepcopy(network).float().eval().fuse(verbose=False))


def count_gflops(network: Any, width: int, height: int) -> float:
    """2 · multiply-adds / 1e9 of the layers that run at inference, without box decoding.

    Detect heads are counted on shapes alone, RT-DETR's by running it once.
    """
    copied = copy.deepcopy(network).cpu().float().eval()
    if isinstance(copied, YOLOv4):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            deployed(copied).to('meta')(torch.zeros(1, 3, height, width, device='meta'))
        return float(counter.get_total_flops()) / 1e9
    from ultralytics.nn.modules import Detect

    head = copied.model[-1]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        if not isinstance(head, Detect):
            copied(torch.zeros(1, 3, height, width))
        else:
            maps = level_maps(copied.to('meta'), torch.zeros(1, 3, height, width, device='meta'))
            used = branches(copied)[2:] if getattr(head, 'end2end', False) else branches(copied)[:2]
            for branch in used:
                for layers, value in zip(branch, maps, strict=True):
                    layers(value)
    return float(counter.get_total_flops()) / 1e9


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one image.

    Attributes:
        median: of all rounds.
        low: the first quartile.
        high: the third quartile.
        cpu: the median of the processor time of all threads; other programs on the machine hardly change it.
    """

    median: float
    low: float
    high: float
    cpu: float


def measure_latency(
    files: Mapping[str, Path], *, threads: int = 1, rounds: int = 30, warm_up: int = 3, progress: bool = True
) -> dict[str, Latency]:
    """Time ONNX files side by side: each round runs every file once, so that other load on the machine falls on all alike.

    Args:
        files: ONNX files with one image input, by name.
        threads: of each session.
        rounds: measured rounds, after `warm_up` that are not.
    """
    sessions = {name: _session(file, threads) for name, file in files.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in files}
    for number in tqdm(range(warm_up + rounds), desc='timing', unit='round', disable=not progress):
        for name, (session, inputs) in sessions.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            session.run(None, inputs)
            if number >= warm_up:
                times[name].append((time.perf_counter() - start, time.process_time() - cpu_start))
    return {name: _latency(values) for name, values in times.items()}


def _latency(seconds: list[tuple[float, float]]) -> Latency:
    wall, cpu = 1e3 * np.array(seconds).T
    low, median, high = np.percentile(wall, [25, 50, 75])
    return Latency(float(median), float(low), float(high), float(np.median(cpu)))


def _session(file: Path, threads: int) -> tuple[Any, dict[str, Any]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry(
        'session.intra_op.allow_spinning', '0'
    )  # the sessions take turns on the same cores
    session = onnxruntime.InferenceSession(str(file), options, providers=['CPUExecutionProvider'])
    given = session.get_inputs()[0]
    numbers = np.random.default_rng(0)
    if given.type == 'tensor(uint8)':
        image: Any = numbers.integers(0, 256, given.shape, np.uint8)
    else:
        image = numbers.random(given.shape, np.float32)
    return session, {given.name: image}
