"""`batch: auto`: how many images at once, by the memory of a GPU or by the time of a step on a CPU."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from training.errors import FitError
from training.fit.optimizer import is_out_of_memory
from training.fit.processes import Group

FILE = 'batch.json'
SHARE = 0.7
"""Of a GPU's memory, which a step may take: objects and mosaics differ from batch to batch."""
GAIN = 0.95
"""A batch twice as large must take at most this share of the time for an image, or it is no gain."""
LARGEST = 256


def chosen_batch(folder: Path, group: Group, try_step: Callable[[int], None]) -> int:
    """What was found for the training of that folder, or is found now; the same for all processes.

    Args:
        try_step: one forward and backward pass with so many images.

    Raises:
        FitError: not even one image for each process fits into memory.
    """
    file = folder / FILE

    def find() -> None:
        if not file.is_file():
            share = _by_memory(try_step) if group.device.type == 'cuda' else _by_time(try_step)
            folder.mkdir(parents=True, exist_ok=True)
            file.write_text(
                json.dumps({'batch': share * group.size, 'device': str(group.device.type)}), encoding='utf-8'
            )

    group.first_does(find)
    return int(json.loads(file.read_text(encoding='utf-8'))['batch'])


def _by_time(try_step: Callable[[int], None]) -> int:
    """The smallest batch whose images take hardly more time than those of one twice as large."""
    best, fastest = 0, float('inf')
    for batch in _tried(try_step):
        started = time.perf_counter()
        try_step(batch)
        taken = (time.perf_counter() - started) / batch
        if taken > GAIN * fastest:
            break
        best, fastest = batch, taken
    return _at_least_one(best)


def _by_memory(try_step: Callable[[int], None]) -> int:
    """The largest power of two whose step takes at most SHARE of the memory, together with what is taken already."""
    best, room = 0, SHARE * torch.cuda.get_device_properties(0).total_memory
    for batch in _tried(try_step):
        torch.cuda.reset_peak_memory_stats()
        try_step(batch)
        if torch.cuda.max_memory_allocated() > room:
            break
        best = batch
    torch.cuda.empty_cache()
    return _at_least_one(best)


def _tried(try_step: Callable[[int], None]) -> Iterator[int]:
    """1, 2, 4 … as long as memory suffices; the first pass of each warms up."""
    batch = 1
    while batch <= LARGEST:
        try:
            try_step(batch)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return
        yield batch
        batch *= 2


def _at_least_one(batch: int) -> int:
    if not batch:
        raise FitError('batch: auto finds no batch: not one image fits into the memory; lower image_size')
    return batch


def noise_step(network: Any, image_size: int, device: torch.device) -> Callable[[int], None]:
    """A forward and backward pass of a detector in training, on noise."""

    def step(batch: int) -> None:
        images = torch.rand(batch, 3, image_size, image_size, device=device)
        found = [value.float().square().mean() for value in _tensors(network(images))]
        torch.stack(found).sum().backward()  # type: ignore[no-untyped-call]
        network.zero_grad(set_to_none=True)
        if device.type == 'cuda':
            torch.cuda.synchronize()

    return step


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        if value.requires_grad:
            yield value
        return
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        yield from _tensors(part)
